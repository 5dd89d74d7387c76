"""digits100: what its images are made of."""

import numpy as np
import pytest
import torch

from kd_lib.data import digits100
from kd_lib.data.digits100 import Digits100, shared_digit_mask, source_digits


@pytest.fixture(scope="module")
def small():
    return Digits100(n_train=400, n_test=200).read()[0]


def test_the_default_images_are_frozen():
    """A change of one pixel makes every number published from digits100 belong to other data: raise VERSION with it."""
    assert digits100.VERSION == 1
    data, _ = Digits100().read()
    assert data.fingerprint == "85c5a3aa0ecada3479fd8e116ab83457786c7209cb84fb2fe39175ea9628e4de"
    assert data.train_x.shape == (8000, 1, 12, 20)
    assert data.test_x.shape == (4000, 1, 12, 20)
    assert data.augment == "none"


def test_classes_are_exactly_balanced(small):
    assert small.train_y.bincount().tolist() == [4] * 100
    assert small.test_y.bincount().tolist() == [2] * 100
    assert small.class_names[37] == "37"
    assert (small.n_classes, small.sizes["in_channels"]) == (100, 1)


def test_train_and_test_use_disjoint_digits_two_to_one():
    train, test = source_digits(seed=0)
    assert sum(map(len, train + test)) == 1797
    for mine, theirs in zip(train, test, strict=True):
        assert abs(len(mine) - 2 * len(theirs)) <= 2
        assert not {d.tobytes() for d in mine} & {d.tobytes() for d in theirs}
    assert not np.array_equal(train[0][:5], source_digits(seed=1)[0][0][:5])


def test_without_noise_each_half_holds_a_source_digit_of_the_right_class():
    data, _ = Digits100(n_train=200, n_test=100, noise=0.0).read()
    parts = zip(source_digits(seed=0), ((data.train_x, data.train_y), (data.test_x, data.test_y)), strict=True)
    for digits, (x, y) in parts:
        known = [{d.tobytes() for d in of_class} for of_class in digits]
        places = set()
        for image, label in zip(x[:, 0].numpy(), y.tolist(), strict=True):
            for half, digit in ((image[:, :10], label // 10), (image[:, 10:], label % 10)):
                windows = [
                    (i, j) for i in range(5) for j in range(3) if half[i : i + 8, j : j + 8].tobytes() in known[digit]
                ]
                assert windows
                places.update(windows)
                i, j = windows[0]
                assert half.sum() == half[i : i + 8, j : j + 8].sum()  # nothing but the digit
        assert len(places) == 15  # every shift occurs


def test_noise_is_gaussian_of_the_stated_size():
    levels = digits100._noise_levels(0.3) / 255
    assert levels.mean() == 0
    assert levels.std() == pytest.approx(0.3, abs=1e-4)
    assert (abs(levels) < 0.3).mean() == pytest.approx(0.6827, abs=0.005)


def test_noise_changes_from_pixel_to_pixel_and_image_to_image(small):
    clean, _ = Digits100(n_train=400, n_test=200, noise=0.0).read()
    paper = clean.train_x == 0
    assert (small.train_x[paper] > 0).float().mean() == pytest.approx(0.5, abs=0.01)
    difference = (small.train_x.float() - clean.train_x.float()).flatten(1)
    correlation = torch.corrcoef(difference[:100])
    assert correlation.fill_diagonal_(0).abs().max() < 0.5


def test_a_smaller_set_is_the_start_of_a_larger_one(small):
    larger, _ = Digits100(n_train=600, n_test=300).read()
    assert torch.equal(larger.train_x[:400], small.train_x)
    assert torch.equal(larger.test_x[:200], small.test_x)


@pytest.mark.parametrize("change", [{"seed": 1}, {"noise": 0.31}, {"n_train": 500}])
def test_every_setting_changes_the_fingerprint(small, change):
    other, _ = Digits100(**{"n_train": 400, "n_test": 200, **change}).read()
    assert other.fingerprint != small.fingerprint


def test_statistics_are_those_of_the_training_pixels(small):
    pixels = small.train_x.double() / 255
    assert small.mean == pytest.approx((pixels.mean().item(),), rel=1e-12)
    assert small.std == pytest.approx((pixels.std(correction=0).item(),), rel=1e-12)


def test_shared_digit_mask_is_what_the_names_say():
    names = [f"{label:02d}" for label in range(100)]
    expected = [[a != b and (a[0] == b[0] or a[1] == b[1]) for b in names] for a in names]
    mask = shared_digit_mask()
    assert mask.tolist() == expected
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [18] * 100
