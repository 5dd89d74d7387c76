"""Images of one's own: a folder with a folder a class, or parquet files with a column of pictures and one of labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kd_lib.data.decode import SUFFIXES, decode
from kd_lib.data.images import ImageData, image_data, partition
from kd_lib.data.source import DataNotFound, DecodedSource
from kd_lib.errors import unknown

_TEST_SHARE = 0.2
_TEST_NAMES = ("test", "val", "validation")  # the first that is there becomes test
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class")


class Folder(DecodedSource):
    """`folder:PATH`: pictures in PATH/train/CLASS/ and PATH/test/CLASS/ (or val), at any depth below CLASS.

    Without a test part, a fixed, stratified fifth of PATH/train/CLASS/ or PATH/CLASS/ becomes test. Where test and val
    are both there, test is taken and val is not read.
    """

    kind: ClassVar[str] = "folder"
    version: ClassVar[int] = 1

    def files(self) -> list[Path]:
        """The pictures of train, then those of test, each sorted by name."""
        return [file for part in self._parts().values() for file, _ in part]

    def read(self) -> tuple[ImageData, str]:
        """Decodes the pictures."""
        parts = self._parts()
        names = sorted({name for _, name in parts["train"]})
        y = [
            _positions([name for _, name in part], names, f"class in {split} of {self.path}")
            for split, part in parts.items()
        ]
        return _assemble(self, [file for part in parts.values() for file, _ in part], y, names), str(self.path)

    def _parts(self) -> dict[str, list[tuple[Path, str]]]:
        root = self.path / "train" if (self.path / "train").is_dir() else self.path
        tests = [self.path / name for name in _TEST_NAMES if (self.path / name).is_dir()]
        if tests and root == self.path:
            raise ValueError(f"{self.path} has a folder {tests[0].name}, but none called train.")
        parts = {"train": _pictures(root), **({"test": _pictures(tests[0])} if tests else {})}
        for split, part in parts.items():
            if not part:
                folder = tests[0] if split == "test" else root
                raise DataNotFound(
                    f"{folder} holds no CLASS/PICTURE with a picture that ends in {', '.join(SUFFIXES)}."
                )
        return parts


class Parquet(DecodedSource):
    """`parquet:PATH`: one parquet file, or a folder of them; those named train* and test* (or val*) are the parts.

    Without a test part, a fixed, stratified fifth of the rows becomes test. Where test* and val* are both there, test*
    is taken and val* is not read. Classes are named by the hub's description in the file, else by their labels.

    Attributes:
        image_column: bytes of PNG, JPEG and so on, or structs that hold `bytes`; None looks for image or img.
        label_column: integers or text; None looks for label, labels, fine_label or class.
    """

    kind: ClassVar[str] = "parquet"
    version: ClassVar[int] = 1

    image_column: str | None = None
    label_column: str | None = None

    def files(self) -> list[Path]:
        """The parquet files of train, then those of test, each sorted by name."""
        return [file for part in self._parts().values() for file in part]

    def read(self) -> tuple[ImageData, str]:
        """Decodes the pictures."""
        from kd_lib.data import tables  # pyarrow is slow to import, and not needed once the images are kept

        rows = {split: tables.read_files(files) for split, files in self._parts().items()}
        pictures, labels, names = [], [], None
        for split, table in rows.items():
            here = f"{split} of {self.path}"
            column = tables.find_column(table, "image_column", _IMAGE_COLUMNS, self.image_column, here)
            pictures += tables.pictures(table, column, here)
            column = tables.find_column(table, "label_column", _LABEL_COLUMNS, self.label_column, here)
            labels.append(tables.labels(table, column, here))
            names = names or tables.class_names(table, column)
        if names is None:
            values = np.unique(labels[0]).tolist()
            names = [str(value) for value in values]
            labels = [
                _positions(y.tolist(), values, f"label in {split} of {self.path}")
                for split, y in zip(rows, labels, strict=True)
            ]
        return _assemble(self, pictures, labels, names), str(self.path)

    def _parts(self) -> dict[str, list[Path]]:
        files = [self.path] if self.path.is_file() else sorted(self.path.glob("*.parquet"))
        if not files:
            raise DataNotFound(f"{self.path} is no parquet file and no folder with files *.parquet.")
        if self.path.is_file():
            return {"train": files}
        parts: dict[str, list[Path]] = {"train": [f for f in files if f.name.startswith("train")]}
        tests = [part for name in ("test", "val") if (part := [f for f in files if f.name.startswith(name)])]
        strangers = [f.name for f in files if not f.name.startswith(("train", "test", "val"))]
        if len(strangers) == len(files):
            return {"train": files}
        if strangers or not parts["train"]:
            raise ValueError(
                f"{self.path}: call the files train*.parquet and test*.parquet, or none so; there is {files[0].name}."
            )
        return {**parts, **({"test": tests[0]} if tests else {})}


def _pictures(root: Path) -> list[tuple[Path, str]]:
    """Files with their class, by class and then by name; hidden folders and files are left out."""
    shown = [f.relative_to(root) for f in root.rglob("*") if f.suffix.lower() in SUFFIXES]
    shown = [f for f in shown if len(f.parts) > 1 and not any(part.startswith(".") for part in f.parts)]
    return [(root / f, f.parts[0]) for f in sorted(shown, key=lambda f: f.parts)]


def _positions(values: Sequence[object], allowed: Sequence[object], what: str) -> NDArray[np.int64]:
    """The place of each value among the training classes."""
    place: Mapping[object, int] = {value: i for i, value in enumerate(allowed)}
    for value in values:
        if value not in place:
            raise unknown(what, value, allowed)
    return np.array([place[value] for value in values], np.int64)


def _assemble(
    source: DecodedSource, pictures: Sequence[bytes | Path], y: list[NDArray], names: Sequence[str]
) -> ImageData:
    """Decodes, drops colour where there is none, and splits where there was no test part."""
    x, grey = decode(pictures, size=source.size, origin=str(source.path))
    x = np.ascontiguousarray(x[:, :1]) if grey else x
    if len(y) == 1:
        rest, test = partition(y[0], _TEST_SHARE)
        return image_data(source.name, (x[rest], y[0][rest]), (x[test], y[0][test]), names, source.augment)
    n = len(y[0])
    return image_data(source.name, (x[:n], y[0]), (x[n:], y[1]), names, source.augment)
