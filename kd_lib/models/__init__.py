"""Networks by name. Each returns `Outputs`: logits and embedding in float32, and one map a stage."""

import re
from collections.abc import Callable

import torch
from torch import nn

from kd_lib.errors import unknown
from kd_lib.models import own, resnet, resnet50, shufflenet, torchvision_resnet, vgg, wrn
from kd_lib.models.fold import fold_batchnorm
from kd_lib.models.staged import Staged

__all__ = ["EXAMPLES", "MODELS", "Staged", "build", "check", "fold_batchnorm"]

PUBLISHED = "-imagenet1k"

MODELS = {
    "resnet50": resnet50.resnet50,
    "resnet{depth}": resnet.resnet,
    "resnet{depth}-w{width}": resnet.resnet_w,
    "resnet{depth}x{factor}": resnet.resnet_x,
    "wrn-{depth}-{factor}": wrn.wide_resnet,
    "vgg{depth}": vgg.vgg,
    "shufflenetv1": shufflenet.shufflenet_v1,
    "shufflenetv2": shufflenet.shufflenet_v2,
    "torchvision-resnet{depth}": torchvision_resnet.resnet,
    f"torchvision-resnet{{depth}}{PUBLISHED}": torchvision_resnet.resnet_imagenet1k,
}
"""A family's name, its numbers in braces, and its builder: builder(depth=20, n_classes=100, in_channels=3).

The first pattern that fits counts. A name with a colon, "package.module:function", is a builder of one's own: see `Staged`.
"""

EXAMPLES = (
    *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    *("resnet20-w32", "resnet8x2", "resnet8x4", "resnet32x4", "resnet50"),
    *("wrn-16-1", "wrn-16-2", "wrn-16-3", "wrn-16-4", "wrn-16-5", "wrn-16-6", "wrn-40-1", "wrn-40-2"),
    *("vgg8", "vgg13", "shufflenetv1", "shufflenetv2"),
    *(f"torchvision-resnet{depth}" for depth in torchvision_resnet.DEPTHS),
    f"torchvision-resnet50{PUBLISHED}",
)
"""The papers' networks, and one of each pattern."""


def build(name: str, *, n_classes: int = 100, in_channels: int = 3, published: bool = True) -> nn.Module:
    """A freshly initialised network, or one with published weights where its name says so.

    Weights come from torch's global generator: call `torch.manual_seed` first.

    Args:
        name: a key of `MODELS` with its numbers filled in, such as "resnet20" or "resnet8-w4"; or "package.module:function",
            a function of one's own that is called with n_classes and in_channels and returns, say, a `Staged`.
        n_classes: outputs of the classifier.
        in_channels: 1 for grey images, 3 for colour.
        published: False leaves published weights out: to count parameters, or to load other weights over them.
    Returns:
        A network in training mode with `forward(x) -> Outputs`, `forward_from(x, stage)`, `keep_preactivations`,
        `classifier: nn.Linear` and `stages`; those of `MODELS` for small images also have `stage_channels`, the
        channels of each of `Outputs.maps`.
    Raises:
        ValueError: no family has this name, or the family has no such depth; the message holds the nearest.
    """
    if ":" in name:
        return own.build_own(name, n_classes=n_classes, in_channels=in_channels)
    builder, numbers = _find(name)
    if not published and name.endswith(PUBLISHED):
        builder = torchvision_resnet.resnet
    return builder(**numbers, n_classes=n_classes, in_channels=in_channels)


def check(name: str) -> None:
    """Whether `build` knows this network; moves no random generator and downloads nothing.

    Raises:
        ValueError: as `build`; what a builder of one's own returns is seen only when it is called.
    """
    if ":" in name:
        own.find_builder(name)
        return
    with torch.random.fork_rng(devices=[]):
        build(name, published=False)


def _find(name: str) -> tuple[Callable[..., nn.Module], dict[str, int]]:
    """A family's builder and the numbers in a name."""
    for pattern, builder in MODELS.items():
        if match := re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[1-9][0-9]*)", pattern), name):
            return builder, {key: int(value) for key, value in match.groupdict().items()}
    raise unknown("network", name, EXAMPLES)
