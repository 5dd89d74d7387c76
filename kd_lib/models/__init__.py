"""Networks by name. Each returns `Outputs`: logits and embedding in float32, and one map a stage."""

import re

from torch import nn

from kd_lib.errors import unknown
from kd_lib.models import resnet, vgg, wrn
from kd_lib.models.fold import fold_batchnorm

__all__ = ["EXAMPLES", "MODELS", "build", "fold_batchnorm"]

MODELS = {
    "resnet{depth}": resnet.resnet,
    "resnet{depth}-w{width}": resnet.resnet_w,
    "resnet{depth}x{factor}": resnet.resnet_x,
    "wrn-{depth}-{factor}": wrn.wide_resnet,
    "vgg{depth}": vgg.vgg,
}
"""A family's name, its numbers in braces, and its builder: builder(depth=20, n_classes=100, in_channels=3)."""

EXAMPLES = (
    *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    *("resnet20-w32", "resnet8x2", "resnet8x4", "resnet32x4"),
    *("wrn-16-1", "wrn-16-2", "wrn-40-1", "wrn-40-2", "vgg8", "vgg13"),
)
"""The papers' networks, and one of each pattern."""


def build(name: str, *, n_classes: int = 100, in_channels: int = 3) -> nn.Module:
    """A freshly initialised network.

    Weights come from torch's global generator: call `torch.manual_seed` first.

    Args:
        name: a key of `MODELS` with its numbers filled in, such as "resnet20" or "resnet8-w4".
        n_classes: outputs of the classifier.
        in_channels: 1 for grey images, 3 for colour.
    Returns:
        A network in training mode with `forward(x) -> Outputs`, `classifier: nn.Linear`, and `stage_channels`, the
        channels of each of `Outputs.maps`.
    Raises:
        ValueError: no family has this name, or the family has no such depth; the message holds the nearest.
    """
    for pattern, builder in MODELS.items():
        if match := re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[1-9][0-9]*)", pattern), name):
            numbers = {key: int(value) for key, value in match.groupdict().items()}
            return builder(**numbers, n_classes=n_classes, in_channels=in_channels)
    raise unknown("network", name, EXAMPLES)
