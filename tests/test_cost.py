"""Costs against values computed by hand."""

import time

import pytest
import torch
from torch import nn

from kd_lib import cost
from kd_lib.models import build


def tiny() -> nn.Module:
    """On 3 x 8 x 6: 3*4*9 weights at 8x6 places, then 4*5*9 at 4x3 places, then 5 x 7."""
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2, padding=1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 7))


def test_parameters():
    assert cost.parameters(tiny()) == (3 * 4 * 9 + 4) + 2 * 4 + (4 * 5 * 9 + 5) + (5 * 7 + 7)


def test_a_shared_parameter_counts_once():
    layer = nn.Linear(5, 5)
    assert cost.parameters(nn.Sequential(layer, layer)) == 30


def test_trained_parameters():
    model = tiny()
    model[0].requires_grad_(False)
    assert cost.trained_parameters(model) == cost.parameters(model) - (3 * 4 * 9 + 4)


def test_megabytes_are_those_of_pesf_table_1():
    assert cost.megabytes(250_000) == 1.0
    assert round(cost.megabytes(278_324), 2) == 1.11


def test_multiply_adds_by_hand():
    assert cost.multiply_adds(tiny(), (3, 8, 6)) == 3 * 4 * 9 * 8 * 6 + 4 * 5 * 9 * 4 * 3 + 5 * 7


def test_multiply_adds_of_grouped_convolutions():
    assert cost.multiply_adds(nn.Conv2d(4, 8, 3, groups=2, bias=False), (4, 5, 5)) == 8 * (4 // 2) * 9 * 3 * 3


@pytest.mark.parametrize(("name", "millions"), [("resnet20", 41), ("resnet56", 126)])
def test_multiply_adds_of_known_networks(name, millions):
    assert round(cost.multiply_adds(build(name), (3, 32, 32)) / 1e6) == millions


def test_multiply_adds_leave_the_network_as_it_was():
    model = tiny().train()
    model[1].eval()
    cost.multiply_adds(model, (3, 8, 6))
    assert [module.training for module in model] == [True, False, True, True, True, True, True]
    assert model[1].num_batches_tracked == 0 and all(p.grad is None for p in model.parameters())


def test_multiply_adds_restore_modes_after_an_error():
    model = tiny().train()
    with pytest.raises(RuntimeError):
        cost.multiply_adds(model, (2, 8, 6))
    assert all(module.training for module in model.modules())


def test_step_seconds_is_the_median_without_the_warmup(monkeypatch):
    """A clock that each call moves by its own amount: 100 s for the warm-up calls, then 1, 9 and 2 s."""
    now, lengths = [0.0], iter([100.0, 100.0, 1.0, 9.0, 2.0])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def step() -> None:
        now[0] += next(lengths)

    assert cost.step_seconds(step, repeats=3, warmup=2) == 2.0
    assert next(lengths, None) is None


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 3), (1, -1)])
def test_step_seconds_rejects_impossible_counts(repeats, warmup):
    with pytest.raises(ValueError, match=f"not {repeats} and {warmup}"):
        cost.step_seconds(lambda: None, repeats=repeats, warmup=warmup)


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="counts CUDA memory, not the process's")
def test_peak_memory_grows_with_what_is_held():
    before = cost.peak_memory()
    size = before + 50_000_000
    held = torch.ones(size, dtype=torch.uint8)
    assert size <= cost.peak_memory() < 4 * size
    assert held[-1] == 1
