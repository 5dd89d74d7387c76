"""Decoded data on disk: sealed folders of `kd_lib.store`, each made once however many processes ask.

safetensors reads a file with flipped bits without a word; the manifest's SHA-256, compared at every load, catches them.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import safetensors.torch
from torch import Tensor

from kd_lib import store
from kd_lib.data.images import ImageData

FORMAT = 1  # raised when folders of an earlier layout cannot be read any more
ARRAYS, RECORD = "arrays.safetensors", "record.json"

Kept = TypeVar("Kept")  # a dataclass of tensors and of what JSON can hold, among them `name` and `fingerprint`


def address(identity: dict[str, object]) -> Path:
    """The folder for data with this identity.

    Args:
        identity: everything the bytes depend on, as JSON; `kind` becomes part of the folder's name.
    Returns:
        A path in `store_root()/data`.
    """
    text = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
    kind = str(identity["kind"]).replace("/", "-")
    return store.store_root() / "data" / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def load_or_make(folder: Path, name: str, make: Callable[[], tuple[Kept, str]], kind: type[Kept] = ImageData) -> Kept:
    """The data kept in a folder, made where there are none. A damaged folder is named, set aside and made again.

    Args:
        folder: an `address`.
        name: what the data set is loaded as.
        make: gives the data, and a line that says what they were made from.
        kind: the class of the data, a flat dataclass: its tensors become arrays, its other fields the record.
    Returns:
        The data, verified or new.
    """
    with store.lock(folder.name):
        if store.verify_or_quarantine(folder) is not None:
            return _read(folder, name, kind)
        data, made_from = make()
        values = {field.name: getattr(data, field.name) for field in fields(data)}
        tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
        record = {"name": name, "made_from": made_from}
        record |= {key: value for key, value in values.items() if key not in tensors and key != "name"}
        files = {ARRAYS: safetensors.torch.save(tensors), RECORD: json.dumps(record, indent=1).encode()}
        store.publish(folder.with_name(f".{folder.name}.work"), folder, files)
        return data


def kept_fingerprint(folder: Path) -> str | None:
    """The fingerprint in a folder's record, without reading the arrays; None where no sound record is."""
    try:
        manifest = json.loads((folder / store.MANIFEST).read_bytes())
        record = (folder / RECORD).read_bytes()
        sound = manifest["files"][RECORD] == hashlib.sha256(record).hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return json.loads(record)["fingerprint"] if sound else None


def _read(folder: Path, name: str, kind: type[Kept]) -> Kept:
    record = json.loads((folder / RECORD).read_bytes()) | {"name": name}
    del record["made_from"]
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    return kind(**safetensors.torch.load_file(folder / ARRAYS), **plain)
