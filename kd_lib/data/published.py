"""Published image data sets: found in a folder in any layout they come in, or downloaded where that is allowed."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from kd_lib.data.batches import Augment
from kd_lib.data.decode import decode
from kd_lib.data.images import ImageData, Part, image_data, in_canonical_order
from kd_lib.data.source import DataNotFound, Source, download_allowed
from kd_lib.paths import data_folder

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)
_SPLITS = ("train", "test")


class Layout(NamedTuple):
    """One way in which a data set lies in a folder.

    Attributes:
        marker: the path below `$KD_DATA` that shows it is there.
        files: all files, in words.
        read: the function that gives both parts from the path of the marker.
    """

    marker: str
    files: str
    read: Callable[[Path], Mapping[str, Part]]


class Published(Source):
    """A data set with fixed content, hence without settings.

    The order of the images is our own (`in_canonical_order`), not that of the files, so that the fingerprint is the
    same whichever copy they came from.

    Attributes:
        hub_id, hub_folder: repository on the Hugging Face hub, and the folder of the parquet files in it.
        columns: of pictures and labels in those files.
        counts: images in train and test.
        class_names: in label order.
        augmentation, statistics: as in `image_data`.
        size, licence: of the download, in words, for messages.
    """

    hub_id: ClassVar[str]
    hub_folder: ClassVar[str]
    columns: ClassVar[tuple[str, str]]
    counts: ClassVar[Mapping[str, int]]
    class_names: ClassVar[tuple[str, ...]]
    augmentation: ClassVar[Augment]
    statistics: ClassVar[tuple[tuple[float, ...], tuple[float, ...]] | None] = None
    size: ClassVar[str]
    licence: ClassVar[str]

    @classmethod
    @abstractmethod
    def other_layouts(cls) -> Sequence[Layout]:
        """The layouts besides the hub's."""

    @classmethod
    def layouts(cls) -> list[Layout]:
        """All layouts, in the order in which they are looked for."""
        folder = f"{cls.hub_id}/{cls.hub_folder}"
        return [
            Layout(folder, f"{folder}/{{train,test}}-*.parquet  (the hub's layout)", cls._read_hub_folder),
            *cls.other_layouts(),
        ]

    @classmethod
    def find(cls) -> tuple[Path, Layout] | None:
        """The first layout whose marker exists in `$KD_DATA`."""
        folder = data_folder()
        present = [
            (folder / layout.marker, layout) for layout in cls.layouts() if folder and (folder / layout.marker).exists()
        ]
        return present[0] if present else None

    def read(self) -> tuple[ImageData, str]:
        """Decodes what `find` finds; else downloads where `$KD_DOWNLOAD` is 1."""
        found = self.find()
        if found is None and not download_allowed():
            raise self.not_found()
        if found is None:
            parts, made_from = self._decode(self._download(), self.hub_id), f"{self.hub_id} on the hub"
        else:
            parts, made_from = found[1].read(found[0]), str(found[0])
        for split, (x, y) in parts.items():
            n = self.counts[split]
            if x.shape != (n, 3, 32, 32) or y.shape != (n,):
                raise ValueError(
                    f"{made_from}: {split} holds {len(y)} labels and pixels {list(x.shape)}, expected {n} of 3x32x32."
                )
        train, test = (in_canonical_order(parts[split]) for split in _SPLITS)
        data = image_data(self.name, train, test, self.class_names, self.augmentation, statistics=self.statistics)
        return data, made_from

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
    def _read_hub_folder(cls, folder: Path) -> dict[str, Part]:
        from kd_lib.data import tables  # pyarrow is slow to import, and not needed once the images are kept

        return cls._decode({split: tables.read_split(folder, split) for split in _SPLITS}, str(folder))

    @classmethod
    def _decode(cls, parts: "Mapping[str, pa.Table]", origin: str) -> dict[str, Part]:
        from kd_lib.data import tables

        pictures, labels = cls.columns
        decoded = {}
        for split, table in parts.items():
            here = f"{split} of {origin}"
            cls.check_names(tables.class_names(table, labels) or cls.class_names, here)
            x, _ = decode(tables.pictures(table, pictures, here), size=32, origin=here)
            decoded[split] = x, tables.labels(table, labels, here)
        return decoded

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
    def _download(cls) -> "dict[str, pa.Table]":
        import datasets  # slow to import, and only needed here

        _log.warning("Downloading %s (%s). Licence: %s", cls.hub_id, cls.size, cls.licence)
        # the two parts are named, because SVHN has a third one, larger than both, that would come along
        files = {split: f"{cls.hub_folder}/{split}-*.parquet" for split in _SPLITS}
        try:
            loaded = datasets.load_dataset(cls.hub_id, data_files=files)
        except OSError as error:
            raise cls.not_found(f" The download failed: {error}") from error
        return {split: loaded[split].with_format("arrow")[:] for split in _SPLITS}
