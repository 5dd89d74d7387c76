"""Published image data sets, decoded into memory."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from kd_lib.data.batches import Augment
from kd_lib.data.decode import decode
from kd_lib.data.hosted import Hosted
from kd_lib.data.images import ImageData, Part, image_data, in_canonical_order

if TYPE_CHECKING:
    import pyarrow as pa


class Published(Hosted):
    """A data set with fixed content, hence without settings.

    The order of the images is our own (`in_canonical_order`), not that of the files, so that the fingerprint is the
    same whichever copy they came from.

    Attributes:
        columns: of pictures and labels in the hub's files.
        counts: images in train and test.
        augmentation, statistics: as in `image_data`.
    """

    columns: ClassVar[tuple[str, str]]
    counts: ClassVar[Mapping[str, int]]
    augmentation: ClassVar[Augment]
    statistics: ClassVar[tuple[tuple[float, ...], tuple[float, ...]] | None] = None

    def read(self) -> tuple[ImageData, str]:
        """Decodes what `find` finds; else downloads where `$KD_DOWNLOAD` is 1."""
        parts, made_from = self.raw_splits()
        for split, (x, y) in parts.items():
            n = self.counts[split]
            if x.shape != (n, 3, 32, 32) or y.shape != (n,):
                raise ValueError(
                    f"{made_from}: {split} holds {len(y)} labels and pixels {list(x.shape)}, expected {n} of 3x32x32."
                )
        train, test = (in_canonical_order(parts[split]) for split in self.splits)
        data = image_data(self.name, train, test, self.class_names, self.augmentation, statistics=self.statistics)
        return data, made_from

    @classmethod
    def decode_tables(cls, parts: "Mapping[str, pa.Table]", origin: str) -> dict[str, Part]:
        """Pixels and labels."""
        from kd_lib.data import tables  # pyarrow is slow to import, and not needed once the images are kept

        pictures, labels = cls.columns
        decoded = {}
        for split, table in parts.items():
            here = f"{split} of {origin}"
            cls.check_names(tables.class_names(table, labels) or cls.class_names, here)
            x, _ = decode(tables.pictures(table, pictures, here), size=32, origin=here)
            decoded[split] = x, tables.labels(table, labels, here)
        return decoded
