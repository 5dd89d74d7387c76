"""Parquet tables of encoded pictures and labels."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kd_lib.errors import unknown


def read_split(folder: Path, split: str) -> pa.Table:
    """All rows of one split in the hub's layout, see `split_files`."""
    return read_files(split_files(folder, split))


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of one split in the hub's layout: `folder/<split>-00000-of-0000n.parquet` and its siblings.

    Args:
        folder: of one configuration of a data set.
        split: "train" or "test".
    Returns:
        The files, in order.
    Raises:
        ValueError: not all n files are there, or there is none.
    """
    files = sorted(folder.glob(f"{split}-*.parquet"))
    counted = re.search(r"-of-(\d+)", files[0].name) if files else None
    expected = int(counted[1]) if counted else max(1, len(files))
    if len(files) != expected:
        raise ValueError(f"{folder} holds {len(files)} of {expected} files {split}-*.parquet: fetch the rest.")
    return files


def read_files(files: Sequence[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of some files with the same columns, one file after the other.

    Args:
        files: in order.
        columns: the only ones that are read; "image.path" is one field of a column of structs.
    """
    return pa.concat_tables([pq.ParquetFile(file).read(columns) for file in files])


def pictures(table: pa.Table, column: str, origin: str) -> list[bytes]:
    """The encoded pictures of a column of bytes, or of structs that hold `bytes`.

    Raises:
        ValueError: no such column, a column of another type, or a row without a picture.
    """
    cells = _column(table, column, origin)
    if pa.types.is_struct(cells.type) and cells.type.get_field_index("bytes") >= 0:
        cells = pc.struct_field(cells, "bytes")
    if not (pa.types.is_binary(cells.type) or pa.types.is_large_binary(cells.type)):
        raise ValueError(
            f"column {column!r} of {origin} holds {cells.type}, not encoded pictures (bytes, or structs with bytes)."
        )
    return _complete(cells, column, origin)


def picture_names(table: pa.Table, column: str) -> list[str] | None:
    """The file names that stand in the field `path` beside the pictures; None where a row has none."""
    cells = table[column] if column in table.column_names else None
    if cells is None or not pa.types.is_struct(cells.type) or cells.type.get_field_index("path") < 0:
        return None
    names = pc.struct_field(cells, "path")
    return None if names.null_count else names.to_pylist()


def labels(table: pa.Table, column: str, origin: str) -> NDArray[np.integer] | NDArray[np.str_]:
    """A column of integer or text labels.

    Raises:
        ValueError: no such column, a column of another type, or a row without a label.
    """
    cells = _column(table, column, origin)
    values = np.asarray(_complete(cells, column, origin))
    if values.dtype.kind not in "iU":
        raise ValueError(f"column {column!r} of {origin} holds {cells.type}; labels are integers or text.")
    return values


def texts(table: pa.Table, column: str, origin: str) -> list[str]:
    """A column of texts.

    Raises:
        ValueError: no such column, a column of another type, or a row without a text.
    """
    cells = _column(table, column, origin)
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        raise ValueError(f"column {column!r} of {origin} holds {cells.type}, not texts.")
    return _complete(cells, column, origin)


def numbers(table: pa.Table, column: str, origin: str) -> NDArray[np.float64]:
    """A column of real numbers, the labels of a regression.

    Raises:
        ValueError: no such column, a column of another type, or a row without a number.
    """
    cells = _column(table, column, origin)
    if not pa.types.is_floating(cells.type):
        raise ValueError(f"column {column!r} of {origin} holds {cells.type}, not real numbers.")
    return np.asarray(_complete(cells, column, origin), np.float64)


def class_names(table: pa.Table, column: str) -> tuple[str, ...] | None:
    """The names that the hub keeps beside a label column; None where the file has none."""
    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get(column, {}).get("names")
    return tuple(names) if names else None


def find_column(table: pa.Table, setting: str, usual: Sequence[str], given: str | None, origin: str) -> str:
    """The column to read.

    Args:
        table: the rows.
        setting: what names it, for messages ("image_column").
        usual: the names looked for where the setting is None.
        given: the setting's value.
        origin: the file, for messages.
    Returns:
        A name that the table has.
    Raises:
        ValueError: no such column, or several with usual names.
    """
    if given is not None:
        _column(table, given, origin)
        return given
    found = [name for name in usual if name in table.column_names]
    if len(found) != 1:
        problem = (
            f"columns {' and '.join(found)} could all be meant"
            if found
            else f"no column is called {' or '.join(usual)}"
        )
        raise ValueError(f"{origin}: {problem}; choose one with {setting}. Columns: {', '.join(table.column_names)}.")
    return found[0]


def _column(table: pa.Table, column: str, origin: str) -> pa.ChunkedArray:
    if column not in table.column_names:
        raise unknown(f"column of {origin}", column, table.column_names)
    return table[column]


def _complete(cells: pa.ChunkedArray, column: str, origin: str) -> list:
    if cells.null_count:
        raise ValueError(f"column {column!r} of {origin} is empty in {cells.null_count} of {len(cells)} rows.")
    return cells.to_pylist()
