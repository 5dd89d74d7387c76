"""Folders on disk that are complete or absent: sealed with checksums, published by one rename, damage set aside.

Nothing here knows what a run is, and nothing is pickled.
"""

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from filelock import FileLock

from kd_lib.paths import store_root

MANIFEST = "manifest.json"


class Damaged(RuntimeError):
    """A sealed folder whose content is not what its manifest says; the message names the files."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that after a crash there is the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` for JSON that people may read."""
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())


def publish(work: Path, final: Path, files: dict[str, bytes], *, durable: bool = True, **facts: Any) -> None:
    """Put files and, last, their manifest into `work`, then make it `final` by one rename.

    Args:
        work: a folder nobody else writes to; its other files are dropped.
        final: where the folder appears, complete.
        files: content by name; a name may hold folders.
        durable: False leaves it to the system when the files reach the disk. That is fit for thousands of small ones that can be
            made again: what a power failure does to them, `verify` finds.
        facts: what else the manifest shall hold.
    """
    shutil.rmtree(work, ignore_errors=True)
    for name, content in files.items():
        if durable:
            write_atomic(work / name, content)
        else:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = {"files": hashes, **facts}
    write_json(work / MANIFEST, {**manifest, "seal": _seal(manifest)})
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(work, final)


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def verify(folder: Path) -> dict[str, Any] | None:
    """The manifest of a sealed folder after re-hashing all its files; None where there is no folder.

    Raises:
        Damaged: a file that is missing or differs, or a manifest that cannot be read.
    """
    if not folder.is_dir():
        return None
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        seal, expected = manifest.pop("seal"), manifest["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder}: {MANIFEST} cannot be read ({error})") from None
    if seal != _seal(manifest):
        raise Damaged(f"{folder}: {MANIFEST} differs from its own seal")
    bad = [name for name, value in expected if not (folder / name).is_file() or file_hash(folder / name) != value]
    if bad:
        raise Damaged(f"{folder}: {', '.join(bad)} differ from the manifest")
    return manifest


def verify_or_quarantine(folder: Path) -> dict[str, Any] | None:
    """`verify`, but a damaged folder is moved to the store's `quarantine/` with a warning, and None returned."""
    try:
        return verify(folder)
    except Damaged as error:
        place = store_root() / "quarantine"
        place.mkdir(parents=True, exist_ok=True)
        number = sum(1 for _ in place.glob(f"{folder.name}-*"))
        os.replace(folder, place / f"{folder.name}-{number}")
        warnings.warn(f"{error}; moved to {place / f'{folder.name}-{number}'}, it will be made again", stacklevel=2)
        return None


def lock(name: str) -> FileLock:
    """A lock between processes; the system frees it when its holder dies."""
    folder = store_root() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")
