"""What every data set module provides, and the errors about settings and missing files."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kd_lib.data import cache
from kd_lib.data.batches import Augment
from kd_lib.data.dataset import Dataset
from kd_lib.data.images import ImageData
from kd_lib.errors import unknown


class DataNotFound(FileNotFoundError):
    """Data that is not on this machine; the message says what to fetch, its size, its licence and where to put it."""


class Source(BaseModel, ABC):
    """A data set and its settings; the fields of a subclass are the settings.

    Attributes:
        kind: its name in `DATASETS`.
        version: raised when the same settings come to mean other bytes, so that earlier caches are not read any more.
        keeps: the class of what `read` gives and the cache keeps, a flat dataclass.
        kept: what the folder in the cache holds, in words.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    kind: ClassVar[str]
    version: ClassVar[int]
    keeps: ClassVar[type] = ImageData
    kept: ClassVar[str] = "decoded and kept"

    @property
    def name(self) -> str:
        """What it is loaded as."""
        return self.kind

    def identity(self) -> dict[str, object]:
        """Everything the bytes depend on, as JSON; the cache is addressed by its hash."""
        return {"kind": self.kind, "version": self.version, **self.model_dump(mode="json")}

    def load(self, folder: Path) -> Dataset:
        """The data set, from its folder in the cache or made now and kept there.

        Args:
            folder: `cache.address` of the identity.
        """
        return cache.load_or_make(folder, self.name, self.read, self.keeps)

    @abstractmethod
    def read(self) -> tuple[ImageData, str]:
        """Makes the data set or decodes it from its files.

        Returns:
            The data, and a line that says what they were made from.
        Raises:
            DataNotFound: the files are not there.
            ValueError: the files are not what they should be.
        """

    @classmethod
    @abstractmethod
    def where(cls) -> str:
        """Where its files would come from now, in a line for people."""


class PathSource(Source):
    """Data of one's own, named `kind:PATH`.

    Attributes:
        path: the folder or file.
    """

    path: Path

    @property
    def name(self) -> str:
        """Its kind and path."""
        return f"{self.kind}:{self.path}"

    @classmethod
    def where(cls) -> str:
        """A hint how to name a path."""
        return f"your own, as {cls.kind}:PATH"


class DecodedSource(PathSource):
    """Images of one's own that fit in memory once they are decoded.

    Attributes:
        size: side of the square images; others are resized by their shorter side and cut to the centre.
        augment: what training batches go through: "none", "crop" (padded by 4) or "crop_flip" (also mirrored).
    """

    size: Annotated[int, Field(gt=0)] = 32
    augment: Augment = "none"

    @abstractmethod
    def files(self) -> list[Path]:
        """The files that it reads, in order.

        Raises:
            DataNotFound: there are none.
        """

    def identity(self) -> dict[str, object]:
        """Adds name, size and time of change of every file, so that edited data is read again."""
        listing = [(f.relative_to(self.path).as_posix(), f.stat().st_size, f.stat().st_mtime_ns) for f in self.files()]
        return {**super().identity(), "files": listing}


def download_allowed() -> bool:
    """Whether `$KD_DOWNLOAD` is 1; nothing else lets the library use the network.

    Raises:
        ValueError: a value other than 0, 1 or nothing.
    """
    value = os.environ.get("KD_DOWNLOAD", "")
    if value not in ("", "0", "1"):
        raise unknown("value of KD_DOWNLOAD", value, ["0", "1"])
    return value == "1"


def configure(name: str, datasets: Mapping[str, type[Source]], settings: Mapping[str, object]) -> Source:
    """The source that a name and its settings stand for.

    Args:
        name: a key of `datasets`; those that read a path are written `kind:PATH`.
        datasets: the known ones.
        settings: values for the source's fields.
    Returns:
        The source, its settings checked.
    Raises:
        ValueError: an unknown name or setting, a value of another type or out of range.
    """
    kind, colon, path = str(name).partition(":")
    source = datasets.get(kind)
    takes_path = source is not None and issubclass(source, PathSource)
    if source is None or bool(colon) != takes_path or (takes_path and not path):
        raise unknown("data set", name, [f"{k}:PATH" if issubclass(s, PathSource) else k for k, s in datasets.items()])
    allowed = [field for field in source.model_fields if field != "path"]
    for setting in settings:
        if setting not in allowed:
            raise unknown(f"setting of {kind}", setting, allowed)
    where = {"path": Path(path).expanduser().resolve()} if takes_path else {}
    try:
        return source(**where, **settings)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors()]
        raise ValueError(f"settings of {kind}: {'; '.join(wrong)}.") from None
