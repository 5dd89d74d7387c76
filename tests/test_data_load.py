"""`load` and `fingerprint`: settings, the cache and its checksums, the validation split."""

import json
import threading
import time

import numpy as np
import pytest
import safetensors.torch
import torch

from kd_lib import data
from kd_lib.data import cache
from kd_lib.data.digits100 import Digits100, shared_digit_mask
from kd_lib.data.images import image_data, partition

SMALL = {"n_train": 400, "n_test": 200}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(tmp_path))
    monkeypatch.delenv("KD_DATA", raising=False)
    monkeypatch.delenv("KD_DOWNLOAD", raising=False)
    data._load.cache_clear()
    yield tmp_path
    data._load.cache_clear()


def _folder(store):
    (folder,) = (path for path in (store / "data").iterdir() if path.name.startswith("digits100-"))
    return folder


def _same(a, b):
    tensors = ("train_x", "train_y", "test_x", "test_y")
    plain = ("name", "class_names", "mean", "std", "augment", "fingerprint")
    assert all(torch.equal(getattr(a, t), getattr(b, t)) for t in tensors)
    assert [getattr(a, p) for p in plain] == [getattr(b, p) for p in plain]


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_comes_from_the_cache_is_what_was_made(store, monkeypatch):
    made = data.load("digits100", **SMALL)
    data._load.cache_clear()
    monkeypatch.setattr(Digits100, "read", lambda self: pytest.fail("made twice"))
    kept = data.load("digits100", **SMALL)
    assert kept is not made
    _same(kept, made)
    assert (made.train_x.dtype, made.train_y.dtype) == (torch.uint8, torch.int64)
    record = json.loads((_folder(store) / cache.RECORD).read_text())
    assert record["made_from"].startswith("load_digits of scikit-learn")


def test_loading_again_in_one_process_is_free():
    assert data.load("digits100", **SMALL) is data.load("digits100", **SMALL)
    assert data.load("digits100", **SMALL) is data.load("digits100", noise=0.3, **SMALL)
    assert data.load("digits100", **SMALL) is not data.load("digits100", seed=1, **SMALL)


def test_fingerprint_reads_the_record_and_not_the_arrays(store):
    made = data.load("digits100", **SMALL)
    data._load.cache_clear()
    (_folder(store) / cache.ARRAYS).unlink()
    assert data.fingerprint("digits100", **SMALL) == made.fingerprint


def test_fingerprint_of_data_not_yet_made_makes_them(store):
    value = data.fingerprint("digits100", **SMALL)
    assert (_folder(store) / cache.ARRAYS).exists()
    assert value == data.load("digits100", **SMALL).fingerprint


@pytest.mark.parametrize("name", [cache.ARRAYS, cache.RECORD])
def test_a_flipped_bit_is_named_set_aside_and_made_again(store, name):
    made = data.load("digits100", **SMALL)
    data._load.cache_clear()
    _flip_a_bit(_folder(store) / name)
    if name == cache.ARRAYS:  # which safetensors itself does not notice
        damaged = safetensors.torch.load_file(_folder(store) / name)
        assert not all(torch.equal(t, getattr(made, key)) for key, t in damaged.items())
    with pytest.warns(UserWarning, match=f"{name}.*quarantine"):
        again = data.load("digits100", **SMALL)
    _same(again, made)
    assert len(list(store.rglob(f"quarantine/*/{name}"))) == 1
    data._load.cache_clear()
    _same(data.load("digits100", **SMALL), made)


def test_a_flipped_bit_in_the_record_never_becomes_a_fingerprint(store):
    made = data.load("digits100", **SMALL)
    data._load.cache_clear()
    record = _folder(store) / cache.RECORD
    record.write_text(record.read_text().replace(made.fingerprint, "0" * 64))
    with pytest.warns(UserWarning, match="quarantine"):
        assert data.fingerprint("digits100", **SMALL) == made.fingerprint


def test_two_that_want_the_same_data_make_them_once(tmp_path):
    made, results = [], []

    def make():
        made.append(1)
        time.sleep(0.2)
        return Digits100(n_train=100, n_test=100).read()

    def want():
        results.append(cache.load_or_make(tmp_path / "data" / "x", "digits100", make))

    threads = [threading.Thread(target=want) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len({result.fingerprint for result in results}) == 1


def test_validation_holds_out_a_stratified_tenth_of_train_and_no_test_image():
    whole = data.load("digits100", n_train=2000, n_test=200)
    chosen = data.load("digits100", split="validation", n_train=2000, n_test=200)
    assert chosen.train_y.bincount().tolist() == [18] * 100
    assert chosen.test_y.bincount().tolist() == [2] * 100
    rows = {key: [x.numpy().tobytes() for x in part] for key, part in (
        ("all", whole.train_x), ("train", chosen.train_x), ("validation", chosen.test_x), ("test", whole.test_x)
    )}  # fmt: skip
    assert sorted(rows["train"] + rows["validation"]) == sorted(rows["all"])
    assert not set(rows["validation"]) & set(rows["train"])
    assert not set(rows["validation"]) & set(rows["test"])
    assert (chosen.mean, chosen.std) == (whole.mean, whole.std)


def test_validation_has_a_fingerprint_of_its_own():
    whole = data.load("digits100", **SMALL)
    chosen = data.load("digits100", split="validation", **SMALL)
    assert chosen.fingerprint != whole.fingerprint
    assert data.fingerprint("digits100", split="validation", **SMALL) == chosen.fingerprint
    assert data.fingerprint("digits100", **SMALL) == whole.fingerprint
    assert data.load("digits100", split="validation", **SMALL) is chosen


def test_the_held_out_positions_are_fixed():
    """Other positions would make earlier choices be made on what is now training data."""
    rest, held = partition(np.arange(60) % 3, 0.1)
    assert held.tolist() == [18, 25, 26, 44, 51, 55]
    assert sorted([*rest, *held]) == list(range(60))
    assert (np.diff(rest) > 0).all()


def test_small_classes_give_one_image_and_keep_one():
    rest, held = partition(np.array([0, 0, 1, 1, 1]), 0.1)
    assert (len(rest), len(held)) == (3, 2)
    with pytest.raises(ValueError, match="class 1 has one image"):
        partition(np.array([0, 0, 1]), 0.1)


def test_fingerprint_sees_everything_a_run_sees():
    x = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), np.uint8)
    y = np.arange(6) % 2

    def make(train=(x, y), names=("a", "b"), augment="none", statistics=None):
        return image_data("any", train, (x, y), names, augment, statistics=statistics).fingerprint

    one_pixel = x.copy()
    one_pixel[-1, -1, -1, -1] ^= 1
    one_label = y.copy()
    one_label[-1] ^= 1
    statistics = ((0.5,), (0.25,))
    changed = [
        make(train=(one_pixel, y), statistics=statistics),
        make(train=(x, one_label), statistics=statistics),
        make(names=("a", "c"), statistics=statistics),
        make(augment="crop", statistics=statistics),
        make(statistics=((0.5,), (0.26,))),
    ]
    assert len({make(statistics=statistics), *changed}) == 6
    assert make(train=(x, y.astype(np.uint8)), statistics=statistics) == make(statistics=statistics)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "digit100"}, "unknown data set: 'digit100'.*'digits100'.*folder:PATH"),
        ({"name": "folder"}, "unknown data set: 'folder'.*'folder:PATH'"),
        ({"name": "digits100:here"}, "unknown data set: 'digits100:here'"),
        ({"name": "digits100", "n_trian": 100}, "unknown setting of digits100: 'n_trian'.*'n_train'"),
        ({"name": "cifar100", "noise": 0.1}, "unknown setting of cifar100: 'noise'.*none"),
        ({"name": "folder:x", "path": "y"}, "unknown setting of folder: 'path'"),
        ({"name": "digits100", "n_train": 150}, "settings of digits100: n_train=150.*multiple of 100"),
        ({"name": "digits100", "n_train": "200"}, "n_train='200'.*integer"),
        ({"name": "digits100", "n_train": True}, "n_train=True.*integer"),
        ({"name": "digits100", "noise": -0.1}, "noise=-0.1.*greater than or equal to 0"),
        ({"name": "digits100", "noise": float("nan")}, "noise=nan"),
        ({"name": "digits100", "split": "val"}, "unknown split: 'val'.*validation"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**arguments)
    with pytest.raises(ValueError, match=message):
        data.fingerprint(**arguments)


def test_arrays_that_do_not_fit_are_refused():
    x, y = np.arange(64, dtype=np.uint8).reshape(4, 1, 4, 4), np.array([0, 0, 1, 1])
    for train, names, message in [
        ((x.astype(float), y), ("a", "b"), "float64 images"),
        ((x, y[:3]), ("a", "b"), "3 labels"),
        ((x, y), ("a",), "labels 0 to 1, but there are 1 classes"),
        ((x, y), ("a", "b", "c"), "no training image of class c"),
        ((np.zeros_like(x), y), ("a", "b"), "same value in every training pixel"),
    ]:
        with pytest.raises(ValueError, match=message):
            image_data("any", train, (x, y), names, "none")


def test_moving_keeps_everything_but_the_place():
    here = data.load("digits100", **SMALL)
    there = here.to("meta")
    assert there.train_x.device.type == there.test_y.device.type == "meta"
    assert (there.fingerprint, there.mean) == (here.fingerprint, here.mean)
    assert here.train_x.device.type == "cpu"


def test_hold_out_of_a_hold_out_differs_again():
    once = data.load("digits100", n_train=2000, n_test=100).hold_out()
    assert once.hold_out().fingerprint not in (
        once.fingerprint,
        data.fingerprint("digits100", n_train=2000, n_test=100),
    )


def test_found_says_where_each_data_set_is(monkeypatch, tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    monkeypatch.setenv("KD_DATA", str(tmp_path))
    data.load("digits100")
    lines = dict(line.split(": ", 1) for line in data.found())
    assert list(lines) == list(data.DATASETS)
    assert lines["digits100"].endswith("decoded and kept")
    assert lines["cifar100"] == str(tmp_path / "cifar-100-python")
    assert "246 MB" in lines["svhn"]


def test_related_classes_where_they_are_known():
    assert torch.equal(data.related_classes("digits100"), shared_digit_mask())
    assert data.related_classes("svhn") is None
    assert data.related_classes("folder:photos") is None
