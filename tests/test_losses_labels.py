"""Targets made from labels, by hand and by what must not change."""

import math

import pytest
import torch

from kd_lib.losses import label_adjustment, label_smoothing


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_label_smoothing_by_hand():
    # alpha 0.2 over 4 classes: 0.2/4 = 0.05 everywhere, and 0.8 more on the right class.
    expected = torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]])
    torch.testing.assert_close(label_smoothing(torch.tensor([2, 0]), 0.2, 4), expected)
    assert torch.equal(label_smoothing(torch.tensor([1]), 0.0, 3), torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(label_smoothing(torch.tensor([1]), 1.0, 4), torch.full((1, 4), 0.25))


@pytest.mark.parametrize("alpha", [-0.1, 1.5, math.nan])
def test_label_smoothing_needs_a_share(alpha):
    with pytest.raises(ValueError, match=r"alpha must lie in 0\.\.1"):
        label_smoothing(torch.tensor([0]), alpha, 3)


def test_label_adjustment_by_hand():
    z_t = torch.tensor([[1.0, 5.0, 3.0], [1.0, 5.0, 3.0], [2.0, 0.0, 2.0]])
    adjusted = label_adjustment(z_t, torch.tensor([0, 1, 2]))
    # Wrong: 5 moves to class 0 and 1 to class 1. Right: untouched. A tie with the right class: untouched.
    assert torch.equal(adjusted, torch.tensor([[5.0, 1.0, 3.0], [1.0, 5.0, 3.0], [2.0, 0.0, 2.0]]))


def test_label_adjustment_moves_two_logits_and_only_where_it_must():
    z_t, y = logits(200, 10), torch.randint(10, (200,), generator=torch.Generator().manual_seed(0))
    y[:50] = z_t[:50].argmax(1)
    before = z_t.clone()
    adjusted = label_adjustment(z_t, y)
    right = before.argmax(1) == y
    assert torch.equal(z_t, before)
    assert torch.equal(adjusted.argmax(1), y)
    assert torch.equal(adjusted.sort(1).values, before.sort(1).values)
    assert torch.equal((adjusted != before).sum(1), torch.where(right, 0, 2))
    assert 50 <= right.sum().item() < 100


def test_label_adjustment_permutes_the_gradient_like_the_logits():
    z_t, y = logits(20, 6).requires_grad_(), torch.arange(20) % 6
    label_adjustment(z_t, y).backward(logits(20, 6, seed=5))
    # Swapping is its own inverse: what arrives at the adjusted place returns to the logit that was moved there.
    top = z_t.argmax(1)
    for i, row in enumerate(logits(20, 6, seed=5)):
        expected = row.clone()
        expected[y[i]], expected[top[i]] = row[top[i]], row[y[i]]
        assert torch.equal(z_t.grad[i], expected)
