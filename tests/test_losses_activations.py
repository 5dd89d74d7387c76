"""Losses before the activation: against slow sums in float64, by hand, and at their boundaries."""

import math

import pytest
import torch

from kd_lib import losses

SHAPES = [(1, 1, 1, 1), (3, 4, 2, 5), (5, 2, 3, 3)]


def maps(shape, seed, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def slow_ab(f_s, f_t, margin):
    total = 0.0
    for s, t in zip(f_s.flatten().tolist(), f_t.flatten().tolist(), strict=True):
        if t <= 0 and s > -margin:
            total += (s + margin) ** 2
        if t > 0 and s <= margin:
            total += (s - margin) ** 2
    return total / len(f_s)


def slow_ofd(f_s, f_t, margin):
    total = 0.0
    for b, c, h, w in [(b, c, h, w) for b, c, h, w in torch.cartesian_prod(*map(torch.arange, f_s.shape)).view(-1, 4)]:
        s, t = f_s[b, c, h, w].item(), max(f_t[b, c, h, w].item(), margin[c].item())
        if s > t or t > 0:
            total += (s - t) ** 2
    return total / len(f_s)


@pytest.mark.parametrize("margin", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_ab_is_its_formula(shape, margin):
    f_s, f_t = maps(shape, 0), maps(shape, 1)
    assert losses.ab(f_s, f_t, margin=margin).item() == pytest.approx(slow_ab(f_s, f_t, margin), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_ofd_is_its_formula(shape):
    f_s, f_t, margin = maps(shape, 0), maps(shape, 1), -maps(shape[1:2], 2).abs()
    assert losses.ofd(f_s, f_t, margin=margin).item() == pytest.approx(slow_ofd(f_s, f_t, margin), rel=1e-12)


def test_ab_by_hand():
    f_t = torch.tensor([5.0, 0.1, 0.0, -3.0, 2.0, -2.0]).view(2, 3, 1, 1)
    f_s = torch.tensor([0.5, -1.0, 0.5, -0.5, 1.0, -1.0]).view(2, 3, 1, 1)
    # missing to the margin 1 on the teacher's side: .5, 2, 1.5 (zero is silent), .5, 0, 0
    assert losses.ab(f_s, f_t).item() == pytest.approx((0.25 + 4 + 2.25 + 0.25) / 2)


def test_ofd_by_hand():
    f_t = torch.tensor([2.0, -0.2, -3.0, -3.0, -0.2, 2.0]).view(2, 3, 1, 1)
    f_s = torch.tensor([0.5, -0.1, -2.0, -0.4, -0.9, 3.0]).view(2, 3, 1, 1)
    margin = torch.tensor([-0.5, -1.0, -1.0])
    # t' = 2, -.2, -1 | -.5, -.2, 2; counted: yes, yes (above), no (below) | yes (above), no (below), yes
    expected = (1.5**2 + 0.1**2 + 0 + 0.1**2 + 0 + 1.0**2) / 2
    assert losses.ofd(f_s, f_t, margin=margin).item() == pytest.approx(expected, rel=1e-5)


def test_ab_sees_only_the_side_of_the_teacher():
    f_s, f_t = maps((3, 4, 2, 5), 0), maps((3, 4, 2, 5), 1).requires_grad_()
    assert losses.ab(f_s, f_t) == losses.ab(f_s, f_t.sign()) == losses.ab(f_s, 1e6 * f_t)
    assert losses.ab(f_t.detach().sign(), f_t) == 0  # a margin away from zero is enough
    assert losses.ab(-f_t.detach().sign(), f_t).item() == pytest.approx(4 * 4 * 2 * 5)  # (2 margins)^2 for every neuron
    assert not losses.ab(f_s, f_t).requires_grad


def test_ofd_pulls_only_where_the_student_has_something_to_learn():
    f_t, margin = torch.tensor([-5.0, -0.1, 1.0]).view(1, 3, 1, 1), torch.full((3,), -0.5)
    for f_s, pulled in ([(-9.0, -9.0, -9.0), (0, 0, 1)], [(-0.4, 0.0, 2.0), (1, 1, 1)], [(-0.5, -0.1, 1.0), (0, 0, 0)]):
        f_s = torch.tensor(f_s).view(1, 3, 1, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(losses.ofd(f_s, f_t, margin=margin), f_s)
        assert (gradient.flatten() != 0).int().tolist() == list(pulled)


def test_ofd_reaches_a_teacher_that_moves_above_its_margin():
    f_s, f_t = maps((3, 4, 2, 5), 0), maps((3, 4, 2, 5), 1).requires_grad_()
    margin = torch.full((4,), -0.5, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(losses.ofd(f_s, f_t, margin=margin), f_t)
    assert not gradient[f_t < -0.5].any() and gradient[f_t > 0].all()


@pytest.mark.parametrize("loss", [losses.ab, lambda s, t: losses.ofd(s, t, margin=-maps((4,), 2).abs())])
def test_gradients_and_mean_over_the_batch(loss):
    f_s, f_t = maps((3, 4, 2, 2), 0).requires_grad_(), maps((3, 4, 2, 2), 1)
    assert torch.autograd.gradcheck(lambda f: loss(f, f_t), f_s)
    alone = [loss(f_s[b : b + 1], f_t[b : b + 1]) for b in range(3)]
    assert loss(f_s, f_t).item() == pytest.approx(sum(alone).item() / 3, rel=1e-12)


def test_nan_reaches_the_loss():
    f_s, f_t = torch.full((1, 1, 1, 1), math.nan), -torch.ones(1, 1, 1, 1)
    assert losses.ab(f_s, f_t).isnan() and losses.ofd(f_s, f_t, margin=-torch.ones(1)).isnan()


def test_negative_mean_by_hand_and_without_negatives():
    f_t = torch.tensor([[[[-1.0, 3.0]], [[0.0, 2.0]]], [[[-3.0, 0.0]], [[5.0, 1.0]]]])
    assert losses.negative_mean(f_t).tolist() == [-2.0, 0.0]


def test_negative_mean_of_a_gaussian_is_the_margin_from_its_batch_norm():
    mean, std = torch.tensor([0.0, 1.0, -0.7]), torch.tensor([1.0, 2.0, 0.5])
    f_t = maps((400, 3, 25, 25), 3, torch.float32) * std[:, None, None] + mean[:, None, None]
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = mean - std * normal.log_prob(-mean / std).exp() / normal.cdf(-mean / std)
    torch.testing.assert_close(losses.negative_mean(f_t), expected, rtol=0, atol=0.01)


def test_half_precision_maps_are_widened():
    f_s, f_t = maps((2, 8, 16, 16), 0).bfloat16(), maps((2, 8, 16, 16), 1).bfloat16()
    margin = losses.negative_mean(f_t)
    for loss, wide in (
        (losses.ab(f_s, f_t), losses.ab(f_s.float(), f_t.float())),
        (losses.ofd(f_s, f_t, margin=margin), losses.ofd(f_s.float(), f_t.float(), margin=margin)),
    ):
        assert loss.dtype == torch.float32 and loss == wide


@pytest.mark.parametrize("loss", [losses.ab, lambda s, t: losses.ofd(s, t, margin=torch.zeros(2))])
@pytest.mark.parametrize("shape", [(3, 1, 4, 4), (3, 2, 4, 5), (3, 2)])
def test_maps_of_two_shapes_are_refused(loss, shape):
    with pytest.raises(ValueError, match=r"student \[3, 2, 4, 4\] and teacher"):
        loss(torch.zeros(3, 2, 4, 4), torch.zeros(shape))


def test_margins_are_checked():
    f = torch.zeros(2, 3, 4, 4)
    for margin in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"margin must be positive, got {margin}"):
            losses.ab(f, f, margin=margin)
    for shape in ((1,), (4,), (1, 3)):  # [4] would broadcast along a row of pixels
        with pytest.raises(ValueError, match=r"margin must be \[3\]"):
            losses.ofd(f, f, margin=torch.zeros(shape))
