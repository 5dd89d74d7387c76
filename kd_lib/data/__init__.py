"""Data sets in memory or listed on disk: made or decoded once, kept with checksums beside the runs, never fetched unless asked.

>>> digits = load("digits100", n_train=2000)
>>> cifar = load("cifar100", split="validation")       # from KD_DATA, or the hub where KD_DOWNLOAD is 1
>>> words = load("word_language", classes=5)
>>> reviews = load("glue/sst2", tokenizer="wordpiece:4000")
>>> mine = load("folder:photos", size=32, augment="crop_flip")
>>> large = load("pictures:photos", crop=224)         # stays encoded, like imagenet
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from kd_lib.data import cache
from kd_lib.data.cifar100 import Cifar100, superclass_mask
from kd_lib.data.dataset import Dataset
from kd_lib.data.digits100 import Digits100, shared_digit_mask
from kd_lib.data.glue import TASKS
from kd_lib.data.imagenet import ImageNet, PictureFolder
from kd_lib.data.images import ImageData, hold_out_fingerprint
from kd_lib.data.jpegs import Jpegs
from kd_lib.data.own import Folder, Parquet
from kd_lib.data.source import DataNotFound, PathSource, Source, configure
from kd_lib.data.svhn import Svhn
from kd_lib.data.text import TextData
from kd_lib.data.word_language import WordLanguage
from kd_lib.errors import unknown

__all__ = [
    "DATASETS",
    "DataNotFound",
    "Dataset",
    "ImageData",
    "Split",
    "TextData",
    "fingerprint",
    "found",
    "load",
    "related_classes",
]

Split = Literal["test", "validation"]

DATASETS: dict[str, type[Source]] = {
    "digits100": Digits100,
    "cifar100": Cifar100,
    "svhn": Svhn,
    "word_language": WordLanguage,
    **TASKS,
    "imagenet": ImageNet,
    "jpegs": Jpegs,
    "folder": Folder,
    "parquet": Parquet,
    "pictures": PictureFolder,
}

RELATED: dict[str, Callable[[], Tensor]] = {"digits100": shared_digit_mask, "cifar100": superclass_mask}


def load(name: str, *, split: Split = "test", **settings: object) -> Dataset:
    """A data set, from memory, from the cache, or made now.

    Args:
        name: a key of `DATASETS`; your own is "folder:PATH", "parquet:PATH" or, too large for memory, "pictures:PATH".
        split: "test" is the data as published; "validation" is for making choices: a fixed, stratified tenth of train
            takes the place of test, train is the rest, and the test images are not there at all.
        settings: fields of the data set's class.
    Returns:
        The data, on the CPU. Repeated calls return the same object.
    Raises:
        ValueError: an unknown name, split or setting, or files that are not what they should be.
        DataNotFound: files that are not on this machine; the message says how to get them.
    """
    _check(split)
    source = configure(name, DATASETS, settings)
    return _load(source, cache.address(source.identity()), split)


def fingerprint(name: str, *, split: Split = "test", **settings: object) -> str:
    """The fingerprint of what `load` with these arguments would return; a millisecond where the data is in the cache.

    Args:
        name, split, settings: as in `load`.
    Returns:
        SHA-256 in hex.
    Raises:
        ValueError, DataNotFound: as `load`.
    """
    _check(split)
    source = configure(name, DATASETS, settings)
    folder = cache.address(source.identity())
    whole = cache.kept_fingerprint(folder) or _load(source, folder, "test").fingerprint
    return whole if split == "test" else hold_out_fingerprint(whole)


def related_classes(name: str) -> Tensor | None:
    """Which classes of a data set have something in common, where that is known of it: a digit, a superclass.

    Args:
        name: as in `load`.
    Returns:
        [C, C] bool, symmetric, False on the diagonal; None where nothing is known.
    """
    return RELATED[name]() if name in RELATED else None


def found() -> list[str]:
    """What each data set would be read from now, a line each, for people."""
    lines = []
    for kind, source in DATASETS.items():
        kept = not issubclass(source, PathSource) and cache.address(source().identity()).exists()
        lines.append(f"{kind}: {source.where()}{f'; {source.kept}' if kept else ''}")
    return lines


@lru_cache(maxsize=4)
def _load(source: Source, folder: Path, split: Split) -> Dataset:
    if split == "validation":
        return _load(source, folder, "test").hold_out()
    return source.load(folder)


def _check(split: str) -> None:
    if split not in get_args(Split):
        raise unknown("split", split, get_args(Split))
