"""The real CIFAR-100, where it is at hand: decoded once for all tests of this file."""

import pytest
import torch

from kd_lib import data


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    data._load.cache_clear()
    yield tmp_path_factory.mktemp("runs")
    data._load.cache_clear()


@pytest.fixture
def cifar(shared_data, runs, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(runs))
    monkeypatch.setenv("KD_DATA", str(shared_data))
    return data.load("cifar100")


def test_it_is_the_published_one(cifar):
    """First labels as in the authors' files; every class has 500 and 100 images."""
    assert cifar.train_y[:5].tolist() == [19, 29, 0, 11, 1]
    assert [cifar.class_names[label] for label in cifar.test_y[:2]] == ["mountain", "forest"]
    assert cifar.train_y.bincount().tolist() == [500] * 100
    assert cifar.test_y.bincount().tolist() == [100] * 100
    assert cifar.train_x.shape == (50_000, 3, 32, 32)
    assert cifar.fingerprint == "5e7a89412c37e3b6c67d5685f10aa33031b421d19b4b1bae077b383ac34b540b"


def test_its_pixels_have_the_published_mean(cifar):
    mean = [channel.double().mean().item() / 255 for channel in cifar.train_x.unbind(1)]
    assert mean == pytest.approx(cifar.mean, abs=1e-4)


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
