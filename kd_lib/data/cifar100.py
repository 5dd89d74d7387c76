"""CIFAR-100 with its 100 fine labels."""

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kd_lib.data.batches import Augment
from kd_lib.data.hosted import Layout
from kd_lib.data.images import Part
from kd_lib.data.published import Published

_SPLITS = ("train", "test")
_CLASS_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
    maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail
    snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout
    tulip turtle wardrobe whale willow_tree wolf woman worm
"""
# five after five
_SUPERCLASSES = """
    beaver dolphin otter seal whale aquarium_fish flatfish ray shark trout orchid poppy rose sunflower tulip
    bottle bowl can cup plate apple mushroom orange pear sweet_pepper clock keyboard lamp telephone television
    bed chair couch table wardrobe bee beetle butterfly caterpillar cockroach bear leopard lion tiger wolf
    bridge castle house road skyscraper cloud forest mountain plain sea camel cattle chimpanzee elephant kangaroo
    fox porcupine possum raccoon skunk crab lobster snail spider worm baby boy girl man woman
    crocodile dinosaur lizard snake turtle hamster mouse rabbit shrew squirrel
    maple_tree oak_tree palm_tree pine_tree willow_tree bicycle bus motorcycle pickup_truck train
    lawn_mower rocket streetcar tank tractor
"""


class Cifar100(Published):
    """CIFAR-100: padded crops and flips, normalised with the statistics of CRD's protocol (METHODS section 0)."""

    kind: ClassVar[str] = "cifar100"
    version: ClassVar[int] = 1
    hub_id: ClassVar[str] = "uoft-cs/cifar100"
    hub_folder: ClassVar[str] = "cifar100"
    columns: ClassVar[tuple[str, str]] = ("img", "fine_label")
    counts: ClassVar[Mapping[str, int]] = {"train": 50_000, "test": 10_000}
    augmentation: ClassVar[Augment] = "crop_flip"
    statistics: ClassVar = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    size: ClassVar[str] = "135 MB as parquet, 169 MB as torchvision's archive; 185 MB more once decoded"
    licence: ClassVar[str] = (
        "its page names none and asks to cite Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images."
    )
    class_names: ClassVar[tuple[str, ...]] = tuple(_CLASS_NAMES.split())

    @classmethod
    def other_layouts(cls) -> Sequence[Layout]:
        """Torchvision's folder of the authors' pickles, and one file of arrays."""
        arrays = "cifar100.npz  (uint8 arrays train_x [50000, 32, 32, 3], test_x, and labels train_y, test_y)"
        return [
            Layout("cifar-100-python", "cifar-100-python/{train,test,meta}  (torchvision's layout)", cls._read_pickles),
            Layout("cifar100.npz", arrays, cls._read_arrays),
        ]

    @classmethod
    def _read_pickles(cls, folder: Path) -> dict[str, Part]:
        (names,) = _unpickle(folder / "meta", "fine_label_names")
        cls.check_names(names, str(folder / "meta"))
        parts = {split: _unpickle(folder / split, "data", "fine_labels") for split in _SPLITS}
        return {split: (pixels.reshape(-1, 3, 32, 32), np.asarray(labels)) for split, (pixels, labels) in parts.items()}

    @classmethod
    def _read_arrays(cls, path: Path) -> dict[str, Part]:
        with np.load(path, allow_pickle=False) as arrays:
            return {split: (arrays[f"{split}_x"].transpose(0, 3, 1, 2), arrays[f"{split}_y"]) for split in _SPLITS}


def superclass_mask() -> Tensor:
    """Which classes of CIFAR-100 share one of its 20 superclasses: otter with beaver, dolphin, seal and whale.

    Returns:
        [100, 100] bool, symmetric, 4 True a row, False on the diagonal.
    """
    superclass = {name: i // 5 for i, name in enumerate(_SUPERCLASSES.split())}
    of = torch.tensor([superclass[name] for name in Cifar100.class_names])
    return (of[:, None] == of) & ~torch.eye(len(of), dtype=torch.bool)


class _ArraysOnly(pickle.Unpickler):
    """Reads the authors' own pickles; one that asks for more than plain values and NumPy arrays is refused, not run."""

    ALLOWED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        }
    )

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which the published files do not need; it was not run"
            )
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


def _unpickle(path: Path, *fields: str) -> list:
    """Some values of the dict in a published file; written by Python 2, hence the encoding."""
    try:
        content = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        return [content[field] for field in fields]
    except (pickle.UnpicklingError, EOFError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the published file: {error}.") from error
