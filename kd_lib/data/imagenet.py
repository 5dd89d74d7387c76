"""ImageNet, and large picture folders of one's own: they stay encoded on disk."""

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from kd_lib.data import crops
from kd_lib.data.listings import Files, Listing, Rows, list_files, list_rows
from kd_lib.data.pictures import PictureData, picture_data
from kd_lib.data.source import DataNotFound, PathSource, Source
from kd_lib.paths import data_folder

_TEST_NAMES = ("val", "validation", "test")  # the first that is there becomes test


class PictureSource(Source):
    """Pictures that stay encoded; what is kept beside the runs is the listing of their files.

    The fingerprint comes from names, sizes and labels, not from the pictures. A listing is made anew when a folder or
    parquet file has another time of change. A picture that is overwritten in place changes no folder's time: it is an
    error when it is read, if its size changed, and goes unnoticed otherwise.

    Attributes:
        crop: side of the square that a network sees. Training: a random part (8 to 100% of the area, ratio 3/4 to 4/3)
            resized to it, mirrored in half of all cases. Evaluation: the centre, after the shorter side was resized to
            256/224 of it.
    """

    kept: ClassVar[str] = "listed"
    keeps: ClassVar[type] = Files

    crop: Annotated[int, Field(ge=8)] = 224

    def load(self, folder: Path) -> PictureData:
        """The listing, from the cache or made now, and what decodes it."""
        return picture_data(super().load(folder), self.crop)

    @abstractmethod
    def read(self) -> tuple[Listing, str]:
        """Lists the pictures."""

    def facts(self) -> dict[str, object]:
        """What makes other pixels of the same pictures: part of the fingerprint."""
        return {"crop": self.crop, "crops": crops.VERSION}


class PictureFolder(PictureSource, PathSource):
    """`pictures:PATH`: pictures in PATH/train/CLASS/ and PATH/val/CLASS/ (or validation, or test), for folders too large to be
    held in memory decoded, as `folder:PATH` does.
    """

    kind: ClassVar[str] = "pictures"
    version: ClassVar[int] = 1

    def identity(self) -> dict[str, object]:
        """Adds the times of change of all class folders."""
        return {**super().identity(), "folders": _times(self._parts())}

    def read(self) -> tuple[Files, str]:
        """Lists the pictures."""
        return list_files(self.name, self.path, self._parts(), self.facts()), str(self.path)

    def _parts(self) -> dict[str, Path]:
        tests = [self.path / name for name in _TEST_NAMES if (self.path / name).is_dir()]
        if not tests or not (self.path / "train").is_dir():
            raise DataNotFound(
                f"{self.path} must hold train/CLASS/PICTURE and val/CLASS/PICTURE (or validation, or test)."
            )
        return {"train": self.path / "train", "test": tests[0]}


class ImageNet(PictureSource):
    """ImageNet-1k of ILSVRC 2012, its validation pictures as the test part (METHODS section 0).

    Both layouts give the same pictures in the same order. Their fingerprints differ, because sizes of single pictures
    are not known of parquet files.
    """

    kind: ClassVar[str] = "imagenet"
    version: ClassVar[int] = 1
    hub_id: ClassVar[str] = "ILSVRC/imagenet-1k"
    counts: ClassVar[Mapping[str, int]] = {"train": 1_281_167, "test": 50_000}
    n_classes: ClassVar[int] = 1000
    size: ClassVar[str] = "about 150 GB; read from the hub's parquet files, it takes as much again for Arrow files"
    licence: ClassVar[str] = (
        "for non-commercial research and education, under ImageNet's terms of access, which the hub asks you to accept "
        "before it lets your account download (gated); cite Russakovsky et al. 2015, ImageNet Large Scale Visual "
        "Recognition Challenge."
    )

    def identity(self) -> dict[str, object]:
        """Adds place and times of change of the files, where there are any."""
        found = self.find()
        if found is None:
            return {**super().identity(), "files": None}
        root, in_rows = found
        times = (
            [(f.name, f.stat().st_mtime_ns) for f in sorted(root.glob("*.parquet"))]
            if in_rows
            else _times(_parts(root))
        )
        return {**super().identity(), "root": str(root), "files": times}

    @property
    def keeps(self) -> type[Listing]:
        """Rows in the hub's layout, else files."""
        found = self.find()
        return Rows if found and found[1] else Files

    def read(self) -> tuple[Listing, str]:
        """Lists the pictures, which takes seconds on a local disk and minutes on a network's."""
        found = self.find()
        if found is None:
            raise self.not_found()
        root, in_rows = found
        if in_rows:
            listing = list_rows(self.name, root, {"train": "train", "test": "validation"}, self.facts())
        else:
            listing = list_files(self.name, root, _parts(root), self.facts())
        for split, y in (("train", listing.train_y), ("test", listing.test_y)):
            if len(y) != self.counts[split] or len(listing.class_names) != self.n_classes:
                raise ValueError(
                    f"{root}: {split} holds {len(y)} pictures of {len(listing.class_names)} classes, expected "
                    f"{self.counts[split]} of {self.n_classes}. A part of ImageNet, or another set in its layout, is "
                    f"loaded as pictures:{root}"
                )
        return listing, str(root)

    @classmethod
    def find(cls) -> tuple[Path, bool] | None:
        """The folder in `$KD_DATA`, and whether it is in the hub's layout."""
        folder = data_folder()
        if folder is None:
            return None
        hub = folder / cls.hub_id / "data"
        places = ((folder / "imagenet", False, "train"), (hub, True, "train-*.parquet"))
        return next(((root, in_rows) for root, in_rows, marker in places if any(root.glob(marker))), None)

    @classmethod
    def where(cls) -> str:
        """The folder it would be read from, or what to fetch."""
        found = cls.find()
        return str(found[0]) if found else f"not in KD_DATA (size: {cls.size})"

    @classmethod
    def not_found(cls) -> DataNotFound:
        """The error for data that is in none of the layouts. The library does not fetch so much by itself."""
        folder = data_folder()
        looked = "KD_DATA is not set" if folder is None else f"KD_DATA is {folder}"
        return DataNotFound(
            f"imagenet is not on this machine ({looked}).\n"
            "Set KD_DATA to a folder that holds one of\n"
            "    imagenet/{train,val}/CLASS/*.JPEG  (torchvision's layout)\n"
            f"    {cls.hub_id}/data/{{train,validation}}-*.parquet  (the hub's layout)\n"
            "For the second one accept the terms on the data set's page, then\n"
            "    hf auth login\n"
            f"    hf download {cls.hub_id} --repo-type dataset --include 'data/train-*' 'data/validation-*' "
            f"--local-dir {folder or '$KD_DATA'}/{cls.hub_id}\n"
            f"Size: {cls.size}.\nLicence: {cls.licence}"
        )


def _parts(root: Path) -> dict[str, Path]:
    return {"train": root / "train", "test": root / "val"}


def _times(parts: Mapping[str, Path]) -> list[tuple[str, str, int]]:
    """When something was last added to, or taken from, each part and class that is there."""
    times = []
    for split, part in parts.items():
        if part.is_dir():
            with os.scandir(part) as entries:
                folders = sorted((entry.name, entry.stat().st_mtime_ns) for entry in entries if entry.is_dir())
            times += [(split, "", part.stat().st_mtime_ns), *((split, *folder) for folder in folders)]
    return times
