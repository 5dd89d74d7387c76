"""SVHN, the street view house numbers, as cropped digits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from kd_lib.data.batches import Augment
from kd_lib.data.hosted import Layout
from kd_lib.data.images import Part
from kd_lib.data.published import Published


class Svhn(Published):
    """SVHN's 10 digits: padded crops, and no flips, because a mirrored digit is another one or none."""

    kind: ClassVar[str] = "svhn"
    version: ClassVar[int] = 1
    hub_id: ClassVar[str] = "ufldl-stanford/svhn"
    hub_folder: ClassVar[str] = "cropped_digits"
    columns: ClassVar[tuple[str, str]] = ("image", "label")
    counts: ClassVar[Mapping[str, int]] = {"train": 73_257, "test": 26_032}
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")
    augmentation: ClassVar[Augment] = "crop"
    size: ClassVar[str] = "246 MB as the authors' two .mat files, less as parquet; 305 MB more once decoded"
    licence: ClassVar[str] = (
        "for non-commercial use; cite Netzer et al. 2011, Reading Digits in Natural Images with Unsupervised Feature "
        "Learning."
    )

    @classmethod
    def other_layouts(cls) -> Sequence[Layout]:
        """The authors' .mat files as torchvision keeps them, in the folder itself or one called svhn."""
        return [
            Layout(
                f"{folder}train_32x32.mat", f"{folder}{{train,test}}_32x32.mat  (torchvision's layout)", cls._read_mats
            )
            for folder in ("", "svhn/")
        ]

    @classmethod
    def _read_mats(cls, train: Path) -> dict[str, Part]:
        test = train.with_name("test_32x32.mat")
        if not test.exists():
            raise ValueError(f"{train} is there, but {test.name} beside it is not: fetch it too.")
        return {"train": _read_mat(train), "test": _read_mat(test)}


def _read_mat(path: Path) -> Part:
    """X is [height, width, channels, N], and the digit 0 has label 10 there."""
    from scipy.io import loadmat  # slow to import, and only needed here

    content = loadmat(path)
    return np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1)), content["y"].reshape(-1).astype(np.int64) % 10
