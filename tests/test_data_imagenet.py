"""ImageNet and picture folders: layouts, listings and fingerprints, and what is refused with a reason."""

import io
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import toy_imagenet
from PIL import Image
from toy_imagenet import CLASSES, _encoded, _epoch, _order, _write_folder, _write_hub

from kd_lib import data
from kd_lib.data.imagenet import ImageNet

store = toy_imagenet.store  # for every test of this file
root, mine = toy_imagenet.root, toy_imagenet.mine  # fixtures


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def both(tmp_path, monkeypatch):
    """ImageNet in torchvision's and in the hub's layout."""
    loaded = {}
    for layout in ("folder", "hub"):
        place = tmp_path / layout
        (_write_folder if layout == "folder" else _write_hub)(
            place / {"folder": "imagenet", "hub": "ILSVRC/imagenet-1k/data"}[layout]
        )
        monkeypatch.setenv("KD_DATA", str(place))
        loaded[layout] = data.load("imagenet", crop=16)
    return loaded


def test_both_layouts_of_imagenet_give_the_same_pictures_in_the_same_order(both):
    folder, hub = both["folder"], both["hub"]
    assert torch.equal(folder.train_y, hub.train_y) and torch.equal(folder.test_y, hub.test_y)
    assert folder.class_names == hub.class_names == CLASSES
    batches = _order(18).split(6)
    for a, b in zip(_epoch(folder, batches), _epoch(hub, batches), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(folder.inputs("test", 3), hub.inputs("test", 3), strict=True):
        assert torch.equal(a, b)
    copy = pickle.loads(pickle.dumps(hub.listing))
    assert copy.encoded(3) == hub.listing.encoded(3) == folder.listing.encoded(3)
    assert "validation-00000-of-00002.parquet" in hub.listing.called(18)


def test_listing_the_hubs_files_reads_no_picture(tmp_path, monkeypatch):
    folder = _write_hub(tmp_path / "ILSVRC/imagenet-1k/data")
    monkeypatch.setenv("KD_DATA", str(tmp_path))
    columns = []
    read = pq.ParquetFile.read
    monkeypatch.setattr(
        pq.ParquetFile, "read", lambda self, names=None, **rest: columns.append(names) or read(self, names, **rest)
    )
    data.load("imagenet")
    assert columns == [["label", "image.path"]] * 4
    assert not (tmp_path / "runs" / "data" / "arrow").exists()
    data._load.cache_clear()
    data.load("imagenet")
    assert len(columns) == 4, "listed twice"
    (folder / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match="1 of 2 files train"):
        data.load("imagenet")


def test_hub_files_without_names_of_pictures_go_by_their_rows(tmp_path, monkeypatch):
    _write_hub(tmp_path / "ILSVRC/imagenet-1k/data", paths=False)
    monkeypatch.setenv("KD_DATA", str(tmp_path))
    nameless = data.load("imagenet", crop=16)
    assert sorted(nameless.listing.rows.tolist()) == sorted([*range(18), *range(6)])
    with Image.open(io.BytesIO(nameless.listing.encoded(0))) as image:
        assert image.size[0] >= 20


def test_a_folder_is_listed_once(root, monkeypatch):
    first = data.load(f"pictures:{root}", crop=16)
    data._load.cache_clear()
    monkeypatch.setattr("kd_lib.data.imagenet.list_files", lambda *_: pytest.fail("listed twice"))
    again = data.load(f"pictures:{root}", crop=16)
    assert again is not first and again.fingerprint == first.fingerprint
    assert torch.equal(torch.cat(list(again.inputs("test", 6))), torch.cat(list(first.inputs("test", 6))))
    assert data.fingerprint(f"pictures:{root}", crop=16) == first.fingerprint


def test_the_fingerprint_is_of_names_sizes_labels_and_crop_and_not_of_the_place(root, tmp_path):
    def now(place=root, **settings):
        return data.fingerprint(f"pictures:{place}", **{"crop": 16, **settings})

    first = now()
    file = root / "train" / CLASSES[0] / "n01440764_0.JPEG"
    seen = {first, now(crop=24)}
    shutil.copytree(root, tmp_path / "copy")
    assert now(tmp_path / "copy") == first
    content = file.read_bytes()
    _replace(file, content + b"0")
    seen.add(now())
    _replace(file, content)
    assert now() == first
    file.rename(file.with_name("another.JPEG"))
    seen.add(now())
    file.with_name("another.JPEG").rename(root / "train" / CLASSES[1] / file.name)
    seen.add(now())
    assert len(seen) == 5
    (root / "train" / CLASSES[1] / file.name).rename(file)
    assert now() == first


def _replace(file, content):
    """As programs save: a new file takes the place of the old one, so that the folder's time of change moves."""
    file.with_suffix(".new").write_bytes(content)
    file.with_suffix(".new").rename(file)
    os.utime(file.parent)


def test_a_picture_that_was_overwritten_in_place_is_an_error_when_it_is_read(mine, root):
    path = Path(mine.listing.called(18))
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(ValueError, match=rf"{path.name} has \d+ bytes, and had \d+ .*Touch its folder"):
        list(mine.inputs("test", 6))


@pytest.mark.parametrize(("damage", "workers"), [("cut", "0"), ("cut", "1"), ("no picture", "0"), ("16 bits", "0")])
def test_a_picture_that_cannot_be_decoded_is_named(root, damage, workers, monkeypatch):
    monkeypatch.setenv("KD_WORKERS", workers)
    deep = io.BytesIO()
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(deep, "PNG")
    file = root / "val" / CLASSES[1] / "ILSVRC2012_val_102.JPEG"
    whole = file.read_bytes()
    content = {"cut": whole[: len(whole) // 2], "no picture": b"not a picture", "16 bits": deep.getvalue()}[damage]
    file.write_bytes(content)
    message = "has mode I;16" if damage == "16 bits" else "cannot be decoded"
    with pytest.raises(ValueError, match=rf"ILSVRC2012_val_102\.JPEG {message}"):
        list(data.load(f"pictures:{root}", crop=16).inputs("test", 2))


def test_other_and_hidden_files_are_left_out(root):
    before = data.fingerprint(f"pictures:{root}")
    (root / "train" / CLASSES[0] / "notes.txt").write_text("no picture")
    (root / "train" / CLASSES[0] / "._0.JPEG").write_text("no picture either")
    (root / "train" / ".thumbs").mkdir()
    assert data.fingerprint(f"pictures:{root}") == before


# --- errors of the sources -------------------------------------------------------------------------------------------


def _move(root, old, new):
    (root / old).rename(root / new)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda r: shutil.rmtree(r / "val"), data.DataNotFound, "must hold train/CLASS/PICTURE and val"),
        (lambda r: shutil.rmtree(r / "train"), data.DataNotFound, "must hold train/CLASS/PICTURE and val"),
        (lambda r: shutil.rmtree(r), data.DataNotFound, "must hold train/CLASS/PICTURE"),
        (lambda r: _move(r, f"val/{CLASSES[0]}", "val/n01440765"), ValueError, "'n01440765'.*Did you mean 'n01440764'"),
        (lambda r: (r / "train" / "empty").mkdir(), data.DataNotFound, "train/empty holds no picture that ends in"),
        (lambda r: (r / "train" / CLASSES[0] / "sub").mkdir(), ValueError, "sub is a folder in a class folder"),
        (
            lambda r: (shutil.rmtree(r / "val"), (r / "val").mkdir(), (r / "val" / "a.JPEG").write_bytes(b"")),
            data.DataNotFound,
            "val holds no class folders",
        ),
    ],
)
def test_folders_of_another_shape_are_refused(root, spoil, error, message):
    spoil(root)
    with pytest.raises(error, match=message):
        data.load(f"pictures:{root}")


def test_imagenet_that_is_not_there_says_what_to_fetch(tmp_path, monkeypatch):
    with pytest.raises(data.DataNotFound) as unset:
        data.load("imagenet")
    for part in (
        "KD_DATA is not set",
        "imagenet/{train,val}/CLASS",
        "hf download ILSVRC/imagenet-1k",
        "150 GB",
        "gated",
    ):
        assert part in str(unset.value)
    monkeypatch.setenv("KD_DATA", str(tmp_path))
    with pytest.raises(data.DataNotFound, match=f"--local-dir {tmp_path}/ILSVRC/imagenet-1k"):
        data.fingerprint("imagenet")
    lines = dict(line.split(": ", 1) for line in data.found())
    assert lines["imagenet"].startswith("not in KD_DATA (size: about 150 GB")
    assert lines["jpegs"] == "drawn with scikit-learn's digits"
    assert lines["pictures"] == "your own, as pictures:PATH"


def test_found_says_where_imagenet_is(tmp_path, monkeypatch):
    _write_folder(tmp_path / "imagenet")
    monkeypatch.setenv("KD_DATA", str(tmp_path))
    data.load("imagenet")
    data.load("jpegs", n_train=10, n_test=10)
    lines = dict(line.split(": ", 1) for line in data.found())
    assert lines["imagenet"] == f"{tmp_path / 'imagenet'}; listed"


def test_imagenet_without_sorted_validation_pictures_is_found_and_refused(tmp_path, monkeypatch):
    shutil.rmtree(_write_folder(tmp_path / "imagenet") / "val")
    (tmp_path / "imagenet" / "val").mkdir()
    (tmp_path / "imagenet" / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(_encoded(0))
    monkeypatch.setenv("KD_DATA", str(tmp_path))
    assert f"imagenet: {tmp_path / 'imagenet'}" in data.found()
    with pytest.raises(data.DataNotFound, match="val holds no class folders"):
        data.load("imagenet")


def test_a_part_of_imagenet_is_not_imagenet(tmp_path, monkeypatch):
    _write_folder(tmp_path / "imagenet")
    monkeypatch.setenv("KD_DATA", str(tmp_path))
    monkeypatch.setattr(ImageNet, "counts", {"train": 18, "test": 50_000})
    with pytest.raises(ValueError, match=r"test holds 6 pictures of 3 classes, expected 50000 of 3\..*pictures:"):
        data.load("imagenet")


def test_hub_labels_outside_the_classes_are_refused(tmp_path, monkeypatch):
    folder = _write_hub(tmp_path / "ILSVRC/imagenet-1k/data")
    monkeypatch.setenv("KD_DATA", str(tmp_path))
    path = folder / "validation-00000-of-00002.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "label", pa.array([-1] * len(table))), path)
    with pytest.raises(ValueError, match="labels -1 to"):
        data.load("imagenet")
