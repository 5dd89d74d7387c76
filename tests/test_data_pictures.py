"""Pictures that stay encoded: their views, the order they come in, and the processes that decode them."""

import io
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_imagenet
from PIL import Image
from toy_imagenet import CLASSES, _epoch, _order

from kd_lib import data
from kd_lib.data import crops, listings
from kd_lib.data.batches import normalise, stream
from kd_lib.data.dataset import Shard
from kd_lib.data.decode import open_rgb
from kd_lib.data.pictures import MEAN, STD, loader_workers

store = toy_imagenet.store  # for every test of this file
root, mine = toy_imagenet.root, toy_imagenet.mine  # fixtures


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
