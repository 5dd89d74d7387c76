"""The real CIFAR-100, where it is at hand: decoded once for all tests of this file."""

import pyarrow.parquet as pq
import pytest
import torch

from kd_lib import data
from kd_lib.data.cifar100 import Cifar100
from kd_lib.data.images import pixel_statistics


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    data._load.cache_clear()
    yield tmp_path_factory.mktemp("runs")
    data._load.cache_clear()


@pytest.fixture
def cifar(shared_data, runs, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(runs))
    monkeypatch.setenv("KD_DATA", str(shared_data))
    if Cifar100.find() is None:
        pytest.skip("no CIFAR-100 among the shared data")
    return data.load("cifar100")


def test_it_is_the_published_one(cifar):
    """Every class has 500 and 100 images; the fingerprint does not depend on the copy."""
    assert cifar.train_y.bincount().tolist() == [500] * 100
    assert cifar.test_y.bincount().tolist() == [100] * 100
    assert cifar.train_x.shape == (50_000, 3, 32, 32)
    assert cifar.fingerprint == "2547a123777091dc2a8ca2c804eeade6b2ebf946c91215b5589b6eabfd50b35a"


def test_its_pixels_have_the_known_statistics(cifar):
    """The widely printed ones of all training pixels; the protocol's rounded constants are close to them."""
    mean, std = pixel_statistics(cifar.train_x.numpy())
    assert mean == pytest.approx((0.50707516, 0.48654887, 0.44091784), abs=1e-8)
    assert std == pytest.approx((0.26733429, 0.25643846, 0.27615047), abs=1e-8)
    assert cifar.mean == pytest.approx(mean, abs=2e-4)
    assert cifar.std == pytest.approx(std, abs=2e-4)


def test_superclasses_are_the_files_coarse_labels(cifar, shared_data):
    folder = shared_data / Cifar100.hub_id / Cifar100.hub_folder
    table = pq.read_table(folder / "test-00000-of-00001.parquet", columns=["fine_label", "coarse_label"])
    coarse = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    expected = [[a != b and coarse[a] == coarse[b] for b in range(100)] for a in range(100)]
    assert data.related_classes("cifar100").tolist() == expected


def test_it_comes_back_from_the_cache(cifar, monkeypatch):
    data._load.cache_clear()
    monkeypatch.delenv("KD_DATA")
    again = data.load("cifar100")
    assert again is not cifar
    assert torch.equal(again.train_x, cifar.train_x)
    assert data.fingerprint("cifar100") == cifar.fingerprint


def test_validation_is_a_tenth_of_train(cifar):
    chosen = data.load("cifar100", split="validation")
    assert chosen.train_y.bincount().tolist() == [450] * 100
    assert chosen.test_y.bincount().tolist() == [50] * 100
