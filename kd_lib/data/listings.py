"""Where the encoded pictures of a large data set are: image files in folders, or rows of the hub's parquet files.

Listing touches no picture. The order of a part depends on labels and pictures' names alone, not on the layout, and mixes
the classes.
"""

import hashlib
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_lib.data.decode import SUFFIXES
from kd_lib.data.images import content_fingerprint
from kd_lib.data.source import DataNotFound
from kd_lib.errors import unknown
from kd_lib.paths import store_root

if TYPE_CHECKING:
    import datasets

_log = logging.getLogger(__name__)

PICTURES, LABELS = "image", "label"  # columns of the hub's parquet files


@dataclass(frozen=True, eq=False)
class Listing(ABC):
    """Encoded pictures by position: those of train, then those of test. It travels to the processes that decode.

    Attributes:
        name: what the data set is loaded as.
        train_y, test_y: [N] int64, positions in `class_names`.
        class_names: one name a class.
        fingerprint: SHA-256 (hex) of all that can be known without reading the pictures.
    """

    name: str
    train_y: Tensor
    test_y: Tensor
    class_names: tuple[str, ...]
    fingerprint: str

    def open(self) -> None:  # noqa: B027 (files need nothing)
        """What is to be done once, before several processes read."""

    @abstractmethod
    def encoded(self, position: int) -> bytes:
        """The bytes of one picture."""

    @abstractmethod
    def called(self, position: int) -> str:
        """Where one picture is, for messages."""


@dataclass(frozen=True, eq=False)
class Files(Listing):
    """Image files, a folder a class.

    Attributes:
        root: the folder that all names are relative to.
        names: their names in UTF-8, one after the other, as uint8.
        ends: [N] where each name ends.
        sizes: [N] bytes of each file.
    """

    root: str
    names: Tensor
    ends: Tensor
    sizes: Tensor

    def encoded(self, position: int) -> bytes:
        """Reads the file.

        Raises:
            ValueError: it has another size than when it was listed.
        """
        content = Path(self.called(position)).read_bytes()
        if len(content) != self.sizes[position]:
            raise ValueError(
                f"{self.called(position)} has {len(content)} bytes, and had {self.sizes[position]} when its folder was "
                "listed: the data changed. Touch its folder, so that it is listed anew."
            )
        return content

    def called(self, position: int) -> str:
        """The file's path."""
        start = int(self.ends[position - 1]) if position else 0
        return os.path.join(self.root, self.names[start : self.ends[position]].numpy().tobytes().decode())


@dataclass(frozen=True, eq=False)
class Rows(Listing):
    """Rows of the hub's parquet files.

    A row in the middle of a parquet file cannot be read without the hundred rows or so around it. So the first reading
    copies the rows of all files into Arrow files in `data/arrow` of the run store, as large as the files themselves,
    which `datasets` then maps into memory; that takes as long as reading and writing so much.

    Attributes:
        root: the folder of the files.
        train_files, test_files: their names.
        rows: [N] the row of each picture, counted through the files of its part.
    """

    root: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    rows: Tensor

    def open(self) -> None:
        """Makes the Arrow files where there are none."""
        _ = self._parts

    def encoded(self, position: int) -> bytes:
        """Reads the row."""
        part, at = self._parts[position >= len(self.train_y)], int(self.rows[position])
        picture = part[at][PICTURES][0].as_py()["bytes"]
        if picture is None:
            raise ValueError(f"{self.called(position)} holds no picture.")
        return picture

    def called(self, position: int) -> str:
        """The part's files, and the row in them."""
        part = self.test_files if position >= len(self.train_y) else self.train_files
        return f"row {int(self.rows[position])} of {self.root}/{part[0]} ... {part[-1]}"

    @cached_property
    def _parts(self) -> "list[datasets.Dataset]":
        import datasets  # slow to import, and only needed here

        files = {
            split: [os.path.join(self.root, name) for name in names]
            for split, names in (("train", self.train_files), ("test", self.test_files))
        }
        folder = store_root() / "data" / "arrow"
        if not folder.exists():
            _log.warning("All rows of %s are copied to %s, once, so that any of them can be read.", self.root, folder)
        loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(folder))
        return [loaded[split].with_format("arrow") for split in files]


def list_files(name: str, root: Path, parts: Mapping[str, Path], facts: Mapping[str, object]) -> Files:
    """Lists PART/CLASS/PICTURE of both parts; classes are those of train, in the order of their names.

    Args:
        name: what the data set is loaded as.
        root: the folder that both parts are in.
        parts: the folder of "train" and that of "test".
        facts: what else belongs into the fingerprint, as JSON.
    Raises:
        DataNotFound: a part without class folders, or a class of train without pictures.
        ValueError: a class of test that train lacks, a folder in a class folder.
    """
    class_names = tuple(path.name for path in class_folders(parts["train"]))
    labels, names, sizes = {}, [], []
    for split, folder in parts.items():
        found = [
            (label, f"{path.relative_to(root).as_posix()}/{file}", size)
            for label, path in _known(class_folders(folder), class_names, f"class in {folder}")
            for file, size in _pictures(path)
        ]
        missing = sorted(set(range(len(class_names))) - {label for label, _, _ in found}) if split == "train" else []
        if missing or not found:
            empty = folder / class_names[missing[0]] if missing else folder
            raise DataNotFound(f"{empty} holds no picture that ends in {', '.join(SUFFIXES)}.")
        order = mixed_order([label for label, _, _ in found], [path for _, path, _ in found])
        labels[split] = np.array([found[i][0] for i in order], "<i8")
        names += [found[i][1].encode() for i in order]
        sizes += [found[i][2] for i in order]
    arrays = {
        "train_y": labels["train"],
        "test_y": labels["test"],
        "names": np.frombuffer(b"".join(names), np.uint8).copy(),
        "ends": np.cumsum([len(name) for name in names], dtype="<i8"),
        "sizes": np.array(sizes, "<i8"),
    }
    fingerprint = content_fingerprint(arrays, {"class_names": class_names, **facts})
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    return Files(name=name, class_names=class_names, fingerprint=fingerprint, root=str(root), **tensors)


def list_rows(name: str, root: Path, splits: Mapping[str, str], facts: Mapping[str, object]) -> Rows:
    """Lists the hub's parquet files, of which it reads labels and pictures' names alone.

    Args:
        name: what the data set is loaded as.
        root: the folder of the files.
        splits: how the files of "train" and of "test" begin.
        facts: what else belongs into the fingerprint, as JSON.
    Raises:
        ValueError: files are missing, columns are not what the hub's are, labels outside the classes.
    """
    from kd_lib.data import tables  # pyarrow is slow to import, and not needed for image files

    files = {part: tables.split_files(root, split) for part, split in splits.items()}
    labels, rows, class_names = {}, [], None
    for part, paths in files.items():
        here = f"{splits[part]} of {root}"
        table = tables.read_files(paths, columns=[LABELS, f"{PICTURES}.path"])
        class_names = class_names or tables.class_names(table, LABELS)
        y, names = tables.labels(table, LABELS, here), tables.picture_names(table, PICTURES)
        if class_names is None or y.min() < 0 or y.max() >= len(class_names):
            known = f"there are {len(class_names)} classes" if class_names else "the files do not name the classes"
            raise ValueError(f"{here} has labels {y.min()} to {y.max()}, but {known}.")
        order = np.array(mixed_order(y.tolist(), names or [str(row) for row in range(len(y))]), "<i8")
        labels[part] = y[order].astype("<i8")
        rows.append(order)
    arrays = {"train_y": labels["train"], "test_y": labels["test"], "rows": np.concatenate(rows)}
    sizes = {part: [(path.name, path.stat().st_size) for path in paths] for part, paths in files.items()}
    fingerprint = content_fingerprint(arrays, {"class_names": class_names, "files": sizes, **facts})
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    names = {f"{part}_files": tuple(path.name for path in paths) for part, paths in files.items()}
    return Rows(name=name, class_names=class_names, fingerprint=fingerprint, root=str(root), **tensors, **names)


def mixed_order(labels: Sequence[int], names: Sequence[str]) -> NDArray[np.int64]:
    """An order of pictures that depends on their labels and names alone: by SHA-256 of both.

    Args:
        labels: [N].
        names: N of them. Folders, endings and the class that the hub puts behind a name ("n01440764_10026_n01440764.JPEG")
            do not count.
    Returns:
        [N] positions. Classes are as mixed as after a shuffle; pictures of one label and name stay as they stood.
    """
    stems = (re.sub(r"(_n\d{8})?\.\w+$", "", name.rpartition("/")[2]) for name in names)
    keys = [hashlib.sha256(f"{label}/{stem}".encode()).digest() for label, stem in zip(labels, stems, strict=True)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), "<i8")


def class_folders(folder: Path) -> list[Path]:
    """The folders of the classes in a part, by name; hidden ones are left out.

    Raises:
        DataNotFound: there are none.
    """
    if not folder.is_dir():
        raise DataNotFound(f"{folder} is no folder: there must be {folder.name}/CLASS/PICTURE.")
    with os.scandir(folder) as entries:
        found = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise DataNotFound(f"{folder} holds no class folders: there must be {folder.name}/CLASS/PICTURE.")
    return [folder / name for name in found]


def _known(folders: Sequence[Path], class_names: Sequence[str], what: str) -> Iterator[tuple[int, Path]]:
    """Each folder with the place of its class."""
    for folder in folders:
        if folder.name not in class_names:
            raise unknown(what, folder.name, class_names)
        yield class_names.index(folder.name), folder


def _pictures(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of the pictures in one class, by name; hidden and other files are left out."""
    found = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                found.append((entry.name, entry.stat().st_size))
            elif entry.is_dir():
                raise ValueError(f"{entry.path} is a folder in a class folder; pictures lie in CLASS/ itself.")
    return found
