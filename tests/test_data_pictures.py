"""Pictures that stay encoded: views, order, processes, layouts, and a run from JPEG files to its resumed end."""

import functools
import io
import json
import math
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from kd_lib import config, data, runs
from kd_lib.data import crops, jpegs, listings
from kd_lib.data.batches import normalise, stream
from kd_lib.data.dataset import Shard
from kd_lib.data.decode import open_rgb
from kd_lib.data.imagenet import ImageNet
from kd_lib.data.jpegs import Jpegs
from kd_lib.data.pictures import MEAN, STD, loader_workers
from kd_lib.train import predict

CLASSES = ("n01440764", "n01443537", "n01484850")
COUNTS = {"train": 18, "test": 6}
SMALL = {"n_train": 40, "n_test": 20, "crop": 16}


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


# --- views -----------------------------------------------------------------------------------------------------------


def _weights(n_in, n_out):
    """Rows of a triangle filter as wide as the step between output pixels, but at least a pixel, by the book."""
    step = n_in / n_out
    rows = np.zeros((n_out, n_in))
    for i in range(n_out):
        for j in range(n_in):
            distance = abs((j + 0.5) - (i + 0.5) * step) / max(step, 1)
            rows[i, j] = max(0.0, 1 - distance)
    return rows / rows.sum(1, keepdims=True)


def _resized(x, width, height):
    return np.einsum("ij,jkc,lk->ilc", _weights(x.shape[0], height), x.astype(float), _weights(x.shape[1], width))


@pytest.mark.parametrize("size", [(37, 23), (30, 50), (7, 6)])
def test_a_training_view_is_the_drawn_part_resized_and_mirrored(size):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    draws = [0.5, 0.25, 0.9, 0.1] + [0.0] * 37
    area = size[0] * size[1] * (0.08 + 0.92 * 0.5)
    ratio = math.exp(math.log(3 / 4) + 0.25 * (math.log(4 / 3) - math.log(3 / 4)))
    w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    left, top = math.floor(0.9 * (size[0] - w + 1)), math.floor(0.1 * (size[1] - h + 1))
    expected = _resized(pixels[top : top + h, left : left + w], 8, 8)
    for last, mirrored in ((0.49, expected[:, ::-1]), (0.51, expected)):
        view = crops.training_view(Image.fromarray(pixels), 8, [*draws[:-1], last])
        assert view.shape == (8, 8, 3)
        assert np.abs(view - mirrored).max() <= 1.0


def test_the_centre_view_is_the_middle_of_the_resized_picture():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 61, 3), np.uint8)
    # side 14: shorter side 16, so 40 -> 16 and 61 -> floor(24.4) = 24; the middle 14 of 16 and of 24
    expected = _resized(pixels, 24, 16)[1:15, 5:19]
    assert np.abs(crops.centre_view(Image.fromarray(pixels), 14) - expected).max() <= 1.0
    tall = crops.centre_view(Image.fromarray(pixels.transpose(1, 0, 2)), 14)
    assert np.abs(tall - expected.transpose(1, 0, 2)).max() <= 1.0


def test_boxes_by_hand():
    # 100 x 50 pixels, 8% of them are 400; ratio 3/4: 17.3 x 23.1
    draws = [0.0, 0.0, 0.5, 0.999] + [0.0] * 37
    assert crops.random_box(100, 50, draws) == (42, 27, 59, 50)
    # the first try, everything in a square, is higher than the picture; the second fits
    draws = [1.0 - 1e-9, 0.5, 0, 0, 0.0, 1.0 - 1e-9, 0.0, 0.0] + [0.0] * 33
    assert crops.random_box(100, 50, draws) == (0, 0, 23, 17)
    assert crops.random_box(200, 2, draws) == (98, 0, 101, 2)  # never fits: 2 high, 4/3 as wide
    assert crops.random_box(2, 200, draws) == (0, 98, 2, 101)
    assert crops.random_box(1, 1, draws) == (0, 0, 1, 1)


def test_boxes_are_spread_as_they_should_be():
    draws = torch.rand(4000, crops.DRAWS, generator=torch.Generator().manual_seed(0)).tolist()
    boxes = np.array([crops.random_box(400, 400, row) for row in draws], float)
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes.max() <= 400
    area, ratio = w * h / 400**2, w / h
    assert area.min() >= 0.078 and ratio.min() >= 0.745 and ratio.max() <= 1.345
    small = area < 0.5  # a square picture refuses none of these
    assert np.mean(area[small] < 0.29) == pytest.approx(0.5, abs=0.04)
    assert np.mean(np.log(ratio[small]) < 0) == pytest.approx(0.5, abs=0.04)
    assert np.corrcoef(boxes[small, 0] / (400 - w[small]), area[small])[0, 1] == pytest.approx(0, abs=0.06)


def test_the_draws_of_a_picture_are_fixed():
    """Other numbers would be another training: raise crops.VERSION with them."""
    numbers = torch.rand(crops.DRAWS, generator=stream("picture", 1, 2, 3)).tolist()
    assert crops.random_box(500, 375, numbers) == (20, 0, 457, 348)
    assert crops.VERSION == 1


# --- what the loop gets ----------------------------------------------------------------------------------------------


def test_inputs_are_the_centres_of_the_named_files(mine, root):
    x = torch.cat(list(mine.inputs("test", 4)))
    assert x.shape == (6, 3, 16, 16) and x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    for i in range(6):
        path = Path(mine.listing.called(int(mine.test_at[i])))
        assert path.parent == root / "val" / CLASSES[mine.test_y[i]]
        view = crops.centre_view(Image.open(path).convert("RGB"), 16)
        pixels = torch.from_numpy(view.copy()).permute(2, 0, 1)[None]
        assert torch.equal(x[i : i + 1], normalise(pixels, MEAN, STD))
        assert torch.equal(mine.pixels("test", [i]), pixels)
    assert (mine.sizes, mine.input_shape, mine.augmented) == ({"n_classes": 3, "in_channels": 3}, (3, 16, 16), True)
    assert mine.train_y.bincount().tolist() == [6, 6, 6]


def test_every_form_of_picture_is_read_as_pil_reads_it_and_not_turned(mine):
    modes = set()
    for position in range(18):
        with Image.open(io.BytesIO(mine.listing.encoded(position))) as stored:
            image, mode = open_rgb(mine.listing.encoded(position), "any")
            modes.add((stored.format, mode, bool(stored.getexif())))
            assert image.size == stored.size and image.mode == "RGB"
            assert np.array_equal(np.asarray(image), np.asarray(stored.convert("RGB")))
    assert {("JPEG", "CMYK", False), ("JPEG", "L", False), ("PNG", "RGBA", False), ("JPEG", "RGB", True)} <= modes


def test_a_training_picture_depends_on_seed_epoch_and_position_alone(mine):
    order = _order(18)
    whole = torch.cat(_epoch(mine, order.split(5)))
    assert torch.equal(torch.cat(_epoch(mine, order.split(7))), whole)
    backwards = torch.cat(_epoch(mine, order.flip(0).split(4)))
    assert torch.equal(backwards.flip(0), whole)
    assert torch.equal(normalise(mine.pixels("train", order.tolist(), draw=(3, 0)), MEAN, STD), whole)
    other = torch.cat(_epoch(mine, order.split(5), epoch=1))
    assert not (other == whole).flatten(1).all(1).any()
    seed = torch.cat(list(mine.training_inputs(order.split(5), seed=4, epoch=0)))
    assert not (seed == whole).flatten(1).all(1).any()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_processes_decode_the_same_pixels_in_the_same_order(mine, monkeypatch, workers):
    batches = _order(18).split(4)
    alone, centres = _epoch(mine, batches), list(mine.inputs("test", 4))
    state = torch.get_rng_state()
    monkeypatch.setenv("KD_WORKERS", workers)
    assert all(torch.equal(a, b) for a, b in zip(_epoch(mine, batches), alone, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(mine.inputs("test", 4), centres, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("world", [2, 3, 7])
def test_shards_decode_their_part_and_together_the_whole(mine, world, monkeypatch):
    batches = _order(18).split(5)
    whole, centres = _epoch(mine, batches), torch.cat(list(mine.inputs("test", 4)))
    decoded = []
    encoded = listings.Files.encoded
    monkeypatch.setattr(listings.Files, "encoded", lambda self, i: decoded.append(i) or encoded(self, i))
    parts = [_epoch(mine, batches, shard=Shard(rank, world)) for rank in range(world)]
    assert len(decoded) == 18
    assert all(torch.equal(torch.cat(shares), x) for shares, x in zip(zip(*parts, strict=True), whole, strict=True))
    tests = [x for rank in range(world) for x in mine.inputs("test", 4, Shard(rank, world))]
    assert torch.equal(torch.cat(tests), centres)


def test_an_epoch_can_be_taken_up_in_the_middle(mine):
    batches = _order(18).split(4)
    assert all(torch.equal(a, b) for a, b in zip(_epoch(mine, batches[2:]), _epoch(mine, batches)[2:], strict=True))


def test_two_passes_at_once_do_not_mix(mine, monkeypatch):
    monkeypatch.setenv("KD_WORKERS", "1")
    first, second = mine.inputs("train", 6), mine.inputs("test", 2)
    mixed = [next(first), next(second), next(first), next(second)]
    assert [len(x) for x in mixed] == [6, 2, 6, 2]
    monkeypatch.setenv("KD_WORKERS", "0")
    assert torch.equal(torch.cat([mixed[0], mixed[2]]), torch.cat(list(mine.inputs("train", 6))[:2]))


def test_the_listing_survives_the_way_to_a_process(mine):
    copy = pickle.loads(pickle.dumps(mine.listing))
    assert copy.encoded(20) == mine.listing.encoded(20)
    assert copy.called(0) == mine.listing.called(0)


def test_classes_are_mixed(mine):
    """A method is connected with the first pictures of the training part: they must not be all of one class."""
    assert len(mine.train_y[:6].unique()) > 1
    assert not torch.equal(mine.train_y, mine.train_y.sort().values)


@pytest.mark.parametrize(("value", "expected"), [("0", 0), ("3", 3)])
def test_the_number_of_processes_can_be_set(monkeypatch, value, expected):
    monkeypatch.setenv("KD_WORKERS", value)
    assert loader_workers(torch.device("cuda")) == expected


def test_processes_are_as_many_as_cores_beside_a_gpu_and_none_on_a_cpu(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert loader_workers(torch.device("cpu")) == 0
    assert loader_workers(torch.device("cuda")) == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader_workers(torch.device("cuda")) == 3
    monkeypatch.setenv("KD_WORKERS", "two")
    with pytest.raises(ValueError, match="KD_WORKERS: 'two'"):
        loader_workers(torch.device("cpu"))


def test_hold_out_is_a_tenth_of_train_and_reads_no_picture(mine, root, monkeypatch):
    monkeypatch.setattr(listings.Files, "encoded", lambda *_: pytest.fail("read a picture"))
    chosen = data.load(f"pictures:{root}", crop=16, split="validation")
    assert chosen.train_y.bincount().tolist() == [5, 5, 5]
    assert chosen.test_y.bincount().tolist() == [1, 1, 1]
    places = torch.cat([chosen.train_at, chosen.test_at])
    assert sorted(places.tolist()) == list(range(18))  # and none of the test part
    labels = torch.cat([chosen.train_y, chosen.test_y])
    assert torch.equal(labels, mine.train_y[places])
    assert chosen.fingerprint == data.fingerprint(f"pictures:{root}", crop=16, split="validation") != mine.fingerprint


def test_moving_takes_the_labels_along(mine):
    there = mine.to("meta")
    assert there.train_y.device.type == there.test_y.device.type == "meta"
    assert (there.fingerprint, there.train_at.device.type) == (mine.fingerprint, "cpu")


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


# --- the made-up set, and runs on it ---------------------------------------------------------------------------------


def test_jpegs_are_real_files_in_imagenets_layout():
    made = data.load("jpegs", **SMALL)
    assert made.class_names == tuple("0123456789")
    assert made.train_y.bincount().tolist() == [4] * 10 and made.test_y.bincount().tolist() == [2] * 10
    sizes = set()
    for position in (*range(40), 55):
        path = Path(made.listing.called(position))
        with Image.open(path) as image:
            assert image.format == "JPEG" and image.mode == "RGB"
            sizes.add(image.size)
    assert path.parts[-3] == "val" and path.suffix == ".JPEG"
    assert len(sizes) > 30 and all(w != h and 64 <= min(w, h) <= max(w, h) <= 121 for w, h in sizes)
    assert data.load("jpegs", seed=1, **SMALL).fingerprint != made.fingerprint
    assert data.fingerprint("jpegs", **{**SMALL, "crop": 24}) != made.fingerprint


def test_jpegs_are_of_one_digit_and_do_not_share_source_digits(monkeypatch):
    """Drawn with ink that says which source digit it is, no test picture shows a training digit."""
    seen = {}
    monkeypatch.setattr(jpegs, "draw", lambda digits, seed: seen.setdefault(seed[1:], digits))
    monkeypatch.setattr(jpegs, "_encoded", lambda digits: b"")
    Jpegs(n_train=20, n_test=20)._files()
    train, test = ({digit.tobytes() for i in range(20) for digit in seen[part, i]} for part in (1, 2))
    assert train and test and len(train & test) <= 2  # scikit-learn holds a few digits twice
    for i in range(10):
        assert np.array_equal(seen[1, i], seen[1, i + 10])
        assert not np.array_equal(seen[1, i], seen[1, (i + 1) % 10])


def test_jpegs_have_the_fingerprint_of_their_settings_whatever_the_encoder(monkeypatch, tmp_path):
    first = data.load("jpegs", **SMALL)
    monkeypatch.setattr(jpegs, "QUALITY", 50)
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "elsewhere"))
    other = data.load("jpegs", **SMALL)
    assert other.listing.encoded(0) != first.listing.encoded(0)
    assert other.fingerprint == first.fingerprint == data.fingerprint("jpegs", **SMALL)


def test_a_damaged_jpeg_is_set_aside_and_made_again():
    made = data.load("jpegs", **SMALL)
    path = Path(made.listing.called(7))
    good = path.read_bytes()
    path.write_bytes(bytes([*good[:-1], good[-1] ^ 1]))
    data._load.cache_clear()
    with pytest.warns(UserWarning, match=f"{path.name}.*quarantine"):
        assert data.load("jpegs", **SMALL).listing.encoded(7) == good


def test_protocols_of_the_new_sets():
    assert config.protocol("imagenet")["milestones"] == (0.3, 0.6, 0.9)
    assert config.protocol("pictures:/any", epochs=3)["batch_size"] == 256
    assert config.protocol("jpegs")["schedule"] == "one_cycle"
    run = config.Run(network="resnet8-w2", data_settings=SMALL, **config.protocol("jpegs"))
    assert run.replace(data_settings={**SMALL, "crop": 24}).key != run.key


def test_a_student_learns_from_jpegs_and_a_killed_run_ends_with_the_same_bits(monkeypatch, tmp_path):
    """Whole without processes that decode, killed and resumed with one."""
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
    common = {"data_settings": SMALL, **config.protocol("jpegs", epochs=2, batch_size=16)}
    teacher = config.Run(network="resnet8-w2", **common)
    run = config.Run(network="resnet8-w2", method="pesf_kd", teacher=teacher, seed=1, **common)
    whole = runs.ensure(run, device="cpu")
    assert np.isfinite(whole.metrics[["loss", "accuracy", "gap", "kl"]].to_numpy()).all()
    assert len(whole.outputs.logits) == len(whole.y) == 20
    out = predict(whole.network(), whole.data, "test", precision=whole.manifest["environment"]["precision"])
    assert torch.equal(out.logits, whole.outputs.logits), "what was stored is the trained network"
    shutil.copytree(whole.folder.parent / teacher.key, tmp_path / "again" / "done" / teacher.key)
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "again"))
    monkeypatch.setenv("KD_WORKERS", "1")

    def killed(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.ensure(run, device="cpu", on_epoch=killed)
    rest = []
    again = runs.ensure(run, device="cpu", on_epoch=lambda row: rest.append(row["epoch"]))
    assert rest == [2]
    for name in ("weights.safetensors", "outputs.safetensors"):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
