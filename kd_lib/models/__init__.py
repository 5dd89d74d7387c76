"""Networks by name. Each returns `Outputs`: logits and embedding in float32, and one map a stage."""

import re
from collections.abc import Callable

import torch
from torch import nn

from kd_lib.errors import unknown
from kd_lib.models import own, resnet, resnet50, shufflenet, torchvision_resnet, transformer, vgg, wrn
from kd_lib.models.checkpoints import CHECKPOINT, check_checkpoint, checkpoint, copy_layers
from kd_lib.models.fold import fold_batchnorm
from kd_lib.models.staged import Staged
from kd_lib.models.transformer import Bert

__all__ = [
    "EXAMPLES",
    "MODELS",
    "TEXT_EXAMPLES",
    "TEXT_MODELS",
    "Bert",
    "Staged",
    "build",
    "check",
    "copy_layers",
    "fold_batchnorm",
    "reads_texts",
]

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

TEXT_MODELS = {
    "bert-l{layers}-d{width}": transformer.bert,
    "bert-l{layers}-d{width}-h{heads}": transformer.bert,
    "bert-l{layers}-d{width}-p{percent}": transformer.bert,
    "bert-l{layers}-d{width}-h{heads}-p{percent}": transformer.bert,
}
"""The same of networks that read texts. A checkpoint is "bert:PATH": see `checkpoints`."""

EXAMPLES = (
    *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    *("resnet20-w32", "resnet8x2", "resnet8x4", "resnet32x4", "resnet50"),
    *("wrn-16-1", "wrn-16-2", "wrn-16-3", "wrn-16-4", "wrn-16-5", "wrn-16-6", "wrn-40-1", "wrn-40-2"),
    *("vgg8", "vgg13", "shufflenetv1", "shufflenetv2"),
    *(f"torchvision-resnet{depth}" for depth in torchvision_resnet.DEPTHS),
    f"torchvision-resnet50{PUBLISHED}",
)
"""The papers' networks, and one of each pattern."""

TEXT_EXAMPLES = (
    *("bert-l2-d64", "bert-l4-d312-h12", "bert-l12-d768-p10", "bert-l4-d312-h12-p10"),
    *("bert:google-bert/bert-base-uncased", "bert-first-6:google-bert/bert-base-uncased"),
)
"""The same of networks that read texts."""

IMAGE_SIZES = {"n_classes": 100, "in_channels": 3}


def build(name: str, *, published: bool = True, **sizes: int) -> nn.Module:
    """A freshly initialised network, or one with published weights where its name says so.

    Weights come from torch's global generator: call `torch.manual_seed` first.

    Args:
        name: a key of `MODELS` or `TEXT_MODELS` with its numbers filled in, such as "resnet20" or "bert-l2-d64"; "bert:" and an id
            or a folder, a checkpoint (see `checkpoints`); or "package.module:function", a function of one's own that is called
            with the sizes and returns, say, a `Staged`.
        published: False leaves published weights out: to count parameters, or to load other weights over them.
        sizes: of the data, as in `Dataset.sizes`: of images `n_classes` and `in_channels` (100 and 3 where not given), of texts
            those of `transformer.SIZES`.
    Returns:
        A network in training mode with `forward(x) -> Outputs`, `forward_from(x, stage)`, `keep_preactivations`,
        `classifier: nn.Linear` and `stages`; those of `MODELS` for small images also have `stage_channels`, the
        channels of each of `Outputs.maps`.
    Raises:
        ValueError: no family has this name, or the family has no such depth; the message holds the nearest. Or a network for
            images is asked to read texts, or the other way.
        DataNotFound: a checkpoint that is not on this machine.
    """
    if CHECKPOINT.fullmatch(name):
        return checkpoint(name, published=published, **_sizes(name, sizes))
    if ":" in name:
        return own.build_own(name, sizes if "vocabulary" in sizes else {**IMAGE_SIZES, **sizes})
    builder, numbers = _find(name)
    if not published and name.endswith(PUBLISHED):
        builder = torchvision_resnet.resnet
    return builder(**numbers, **_sizes(name, sizes))


def reads_texts(name: str) -> bool:
    """Whether a network of `MODELS` or `TEXT_MODELS` reads texts, not images.

    Raises:
        ValueError: no such network, or one of one's own: only its function knows.
    """
    return bool(CHECKPOINT.fullmatch(name)) or _find(name)[0] in TEXT_MODELS.values()


def check(name: str) -> None:
    """Whether `build` knows this network; moves no random generator and downloads nothing.

    Raises:
        ValueError: as `build`; what a builder of one's own returns is seen only when it is called.
    """
    if CHECKPOINT.fullmatch(name):
        check_checkpoint(name)
    elif ":" in name:
        own.find_builder(name)
    elif reads_texts(name):
        transformer.check(**_find(name)[1])
    else:
        with torch.random.fork_rng(devices=[]):
            build(name, published=False)


def _sizes(name: str, sizes: dict[str, int]) -> dict[str, int]:
    """The sizes that this network is built with; those of a checkpoint that are not given are its own."""
    texts = reads_texts(name)
    known = transformer.SIZES if texts else IMAGE_SIZES
    if foreign := [size for size in sizes if size not in known]:
        kinds = ("texts", "images") if texts else ("images", "texts")
        near = EXAMPLES[2] if texts else TEXT_EXAMPLES[0]
        raise ValueError(
            f"network {name!r} reads {kinds[0]}, and has no size {foreign[0]!r}. For {kinds[1]} there is, for example, {near!r}."
        )
    return {"n_classes": known["n_classes"], **sizes} if texts else {**IMAGE_SIZES, **sizes}


def _find(name: str) -> tuple[Callable[..., nn.Module], dict[str, int]]:
    """A family's builder and the numbers in a name."""
    for pattern, builder in {**MODELS, **TEXT_MODELS}.items():
        if match := re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[1-9][0-9]*)", pattern), name):
            return builder, {key: int(value) for key, value in match.groupdict().items()}
    raise unknown("network", name, (*EXAMPLES, *TEXT_EXAMPLES))
