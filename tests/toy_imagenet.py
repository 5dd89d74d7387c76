"""A made-up ImageNet of 24 pictures, in torchvision's and in the hub's layout."""

import functools
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from kd_lib import data
from kd_lib.data.dataset import Shard
from kd_lib.data.imagenet import ImageNet

CLASSES = ("n01440764", "n01443537", "n01484850")
COUNTS = {"train": 18, "test": 6}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "runs"))
    for name in ("KD_DATA", "KD_DOWNLOAD", "KD_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ImageNet, "counts", COUNTS)
    monkeypatch.setattr(ImageNet, "n_classes", len(CLASSES))
    data._load.cache_clear()
    yield tmp_path
    data._load.cache_clear()


@functools.cache
def _encoded(seed):
    """A picture of some size, in one of the forms that ImageNet's files take."""
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(20, 60, 2))
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    image, file = coarse.resize((width, height), Image.Resampling.BICUBIC), io.BytesIO()
    turned = Image.Exif()
    turned[0x0112] = 6  # "turn me by 90 degrees"
    kind, mode, options = [
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"exif": turned}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 2}),
        ("PNG", "RGBA", {}),  # ImageNet has a PNG that is called .JPEG
    ][seed % 6]
    image.convert(mode).save(file, kind, **options)
    return file.getvalue()


def _pictures(split):
    """(class, name without ending, bytes) of every picture of a part, class by class."""
    first, val = {"train": (0, ""), "test": (100, "ILSVRC2012_val_")}[split]
    n = COUNTS[split] // len(CLASSES)
    return [
        (wnid, f"{val or wnid + '_'}{first + n * c + k}", _encoded(first + n * c + k))
        for c, wnid in enumerate(CLASSES)
        for k in range(n)
    ]


def _write_folder(root):
    for split, folder in (("train", "train"), ("test", "val")):
        for wnid, name, content in _pictures(split):
            (root / folder / wnid).mkdir(parents=True, exist_ok=True)
            (root / folder / wnid / f"{name}.JPEG").write_bytes(content)
    return root


def _write_hub(folder, *, paths=True):
    """Two files a part, rows in an order of their own, names as the hub has them."""
    folder.mkdir(parents=True)
    names = {"names": list(CLASSES), "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": names}}})}
    for split, called in (("train", "train"), ("test", "validation")):
        pictures = _pictures(split)
        order = np.random.default_rng(0).permutation(len(pictures))
        for k, part in enumerate(np.array_split(order, 2)):
            rows = [pictures[i] for i in part]
            cells = [{"bytes": b, "path": f"{name}_{wnid}.JPEG" if paths else None} for wnid, name, b in rows]
            columns = {
                "image": pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
                "label": [CLASSES.index(wnid) for wnid, _, _ in rows],
            }
            table = pa.table(columns).replace_schema_metadata(metadata)
            pq.write_table(table, folder / f"{called}-{k:05d}-of-00002.parquet", row_group_size=3)
    return folder


@pytest.fixture
def root(tmp_path):
    return _write_folder(tmp_path / "mine")


@pytest.fixture
def mine(root):
    return data.load(f"pictures:{root}", crop=16)


def _order(n, seed=0):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _epoch(pictures, batches, *, epoch=0, shard=Shard()):  # noqa: B008 (a constant)
    return list(pictures.training_inputs(batches, seed=3, epoch=epoch, shard=shard))
