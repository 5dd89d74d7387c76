"""Data sets that the Hugging Face hub holds: found in a folder in any layout they come in, or downloaded where allowed."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from kd_lib.data.source import DataNotFound, Source, download_allowed
from kd_lib.paths import data_folder

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)


class Layout(NamedTuple):
    """One way in which a data set lies in a folder.

    Attributes:
        marker: the path below `$KD_DATA` that shows it is there.
        files: all files, in words.
        read: the function that gives the raw splits from the path of the marker.
    """

    marker: str
    files: str
    read: Callable[[Path], Mapping[str, Any]]


class Hosted(Source):
    """A published data set.

    Attributes:
        hub_id, hub_folder: repository on the Hugging Face hub, and the folder of the parquet files in it.
        splits: names of the training and the test part there.
        class_names: in label order.
        size, licence: of the download, in words, for messages.
    """

    hub_id: ClassVar[str]
    hub_folder: ClassVar[str]
    splits: ClassVar[tuple[str, str]] = ("train", "test")
    class_names: ClassVar[tuple[str, ...]]
    size: ClassVar[str]
    licence: ClassVar[str]

    @classmethod
    @abstractmethod
    def decode_tables(cls, parts: "Mapping[str, pa.Table]", origin: str) -> dict[str, Any]:
        """The raw splits of the hub's tables.

        Args:
            parts: a table a split.
            origin: where they come from, for messages.
        """

    @classmethod
    def other_layouts(cls) -> Sequence[Layout]:
        """The layouts besides the hub's."""
        return ()

    @classmethod
    def layouts(cls) -> list[Layout]:
        """All layouts, in the order in which they are looked for."""
        folder = f"{cls.hub_id}/{cls.hub_folder}"
        files = f"{folder}/{{{','.join(cls.splits)}}}-*.parquet  (the hub's layout)"
        return [Layout(folder, files, cls._read_hub_folder), *cls.other_layouts()]

    @classmethod
    def find(cls) -> tuple[Path, Layout] | None:
        """The first layout whose marker exists in `$KD_DATA`."""
        folder = data_folder()
        present = [
            (folder / layout.marker, layout) for layout in cls.layouts() if folder and (folder / layout.marker).exists()
        ]
        return present[0] if present else None

    @classmethod
    def raw_splits(cls) -> tuple[Mapping[str, Any], str]:
        """Reads what `find` finds; else downloads where `$KD_DOWNLOAD` is 1.

        Returns:
            The splits, and where they come from.
        Raises:
            DataNotFound: not there, and not to be downloaded.
        """
        found = cls.find()
        if found is not None:
            return found[1].read(found[0]), str(found[0])
        if not download_allowed():
            raise cls.not_found()
        return cls.decode_tables(cls._download(), cls.hub_id), f"{cls.hub_id} on the hub"

    @classmethod
    def where(cls) -> str:
        """The folder it would be read from, or what to fetch."""
        found = cls.find()
        return str(found[0]) if found else f"not in KD_DATA (size: {cls.size})"

    @classmethod
    def not_found(cls, reason: str = "") -> DataNotFound:
        """The error for data that is in none of the layouts and must not or could not be downloaded."""
        folder = data_folder()
        looked = (
            "KD_DATA is not set"
            if folder is None
            else f"KD_DATA is {folder}" + ("" if folder.is_dir() else ", which is no folder")
        )
        return DataNotFound(
            f"{cls.kind} is not on this machine ({looked}).{reason}\n"
            "Either set KD_DATA to a folder that holds one of\n"
            + "".join(f"    {layout.files}\n" for layout in cls.layouts())
            + f"or set KD_DOWNLOAD=1 to fetch {cls.hub_id} from the Hugging Face hub once.\n"
            f"Size: {cls.size}.\nLicence: {cls.licence}"
        )

    @classmethod
    def check_names(cls, names: Sequence[str], origin: str) -> None:
        """Refuses files whose classes are not ours in our order.

        Raises:
            ValueError: names that differ, with the first one.
        """
        if tuple(names) != cls.class_names:
            differ = [
                f"{i} is {a!r}, not {b!r}"
                for i, (a, b) in enumerate(zip(names, cls.class_names, strict=False))
                if a != b
            ]
            raise ValueError(
                f"{origin} has {len(names)} classes, expected {len(cls.class_names)}; {'; '.join(differ[:1])}."
            )

    @classmethod
    def _read_hub_folder(cls, folder: Path) -> dict[str, Any]:
        from kd_lib.data import tables  # pyarrow is slow to import, and not needed once the data are kept

        return cls.decode_tables({split: tables.read_split(folder, split) for split in cls.splits}, str(folder))

    @classmethod
    def _download(cls) -> "dict[str, pa.Table]":
        import datasets  # slow to import, and only needed here

        _log.warning("Downloading %s (%s). Licence: %s", cls.hub_id, cls.size, cls.licence)
        # the two parts are named, because a third one (SVHN's is larger than both) would come along
        files = {split: f"{cls.hub_folder}/{split}-*.parquet" for split in cls.splits}
        try:
            loaded = datasets.load_dataset(cls.hub_id, data_files=files)
        except OSError as error:
            raise cls.not_found(f" The download failed: {error}") from error
        return {split: loaded[split].with_format("arrow")[:] for split in cls.splits}
