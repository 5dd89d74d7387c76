"""Losses against hand-worked values, slow loops, identities and finite differences."""

import math

import pytest
import torch
from slow import logits, pair, slow_sigma, slow_softmax
from torch.autograd import gradcheck

from kd_lib import losses
from kd_lib.losses import atkd, kd, sigma, soft_kl
from kd_lib.methods import METHODS

LN3 = math.log(3)


def slow_soft_kl(z_s, z_t, tau_s: list[float], tau_t: list[float], scale: list[float]) -> float:
    total = 0.0
    for row_s, row_t, a, b, factor in zip(z_s.tolist(), z_t.tolist(), tau_s, tau_t, scale, strict=True):
        p_s, p_t = slow_softmax(row_s, a), slow_softmax(row_t, b)
        total += factor * sum(t * math.log(t / s) for s, t in zip(p_s, p_t, strict=True))
    return total / len(z_s)


# soft_kl


def test_soft_kl_by_hand():
    # tau_t 2, tau_s 1/2, so that the teacher predicts (3/4, 1/4) and (1/2, 1/2), the student (1/2, 1/2) and (1/5, 4/5).
    z_t = torch.tensor([[2 * LN3, 0.0], [0.0, 0.0]], dtype=torch.float64)
    z_s = torch.tensor([[0.0, 0.0], [0.0, 0.5 * math.log(4)]], dtype=torch.float64)
    first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    second = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    assert (round(first, 4), round(second, 4)) == (0.1308, 0.2231)
    assert soft_kl(z_s, z_t, tau_s=0.5, tau_t=2.0, scale=8.0).item() == pytest.approx(8 * (first + second) / 2)
    weights = torch.tensor([[1.0], [10.0]], dtype=torch.float64)
    assert soft_kl(z_s, z_t, tau_s=0.5, tau_t=2.0, scale=weights).item() == pytest.approx((first + 10 * second) / 2)


def test_soft_kl_equals_the_loop_with_a_temperature_for_each_sample():
    z_s, z_t = pair()
    tau_s, tau_t, scale = (0.5 + logits(5, 1, seed=seed).abs() for seed in (3, 4, 5))
    expected = slow_soft_kl(z_s, z_t, *(value.flatten().tolist() for value in (tau_s, tau_t, scale)))
    assert soft_kl(z_s, z_t, tau_s=tau_s, tau_t=tau_t, scale=scale).item() == pytest.approx(expected, rel=1e-12)


def test_one_number_may_be_a_float_or_a_learned_tensor():
    z_s, z_t = pair()
    expected = slow_soft_kl(z_s, z_t, [3.0] * 5, [2.0] * 5, [6.0] * 5)
    for tau_s, tau_t, scale in ((3.0, 2.0, 6.0), (3, 2, 6), tuple(torch.tensor([[3.0], [2.0], [6.0]]))):
        assert soft_kl(z_s, z_t, tau_s=tau_s, tau_t=tau_t, scale=scale).item() == pytest.approx(expected, rel=1e-12)


def test_soft_kl_ignores_a_shift_of_either_side():
    z_s, z_t = pair()
    settings = {"tau_s": 2.0, "tau_t": 3.0, "scale": 1.0}
    value = soft_kl(z_s, z_t, **settings).item()
    shift = logits(5, 1, seed=9, spread=50.0)
    assert soft_kl(z_s + shift, z_t, **settings).item() == pytest.approx(value, rel=1e-12)
    assert soft_kl(z_s, z_t + shift, **settings).item() == pytest.approx(value, rel=1e-12)


def test_soft_kl_measures_from_the_teacher():
    z_s, z_t = pair()
    forwards, backwards = (soft_kl(a, b, tau_s=1.0, tau_t=1.0, scale=1.0).item() for a, b in ((z_s, z_t), (z_t, z_s)))
    assert forwards == pytest.approx(slow_soft_kl(z_s, z_t, *[[1.0] * 5] * 3))
    assert abs(forwards - backwards) > 0.1


def test_soft_kl_gradient_is_the_difference_of_predictions():
    z_s, z_t = pair(grad=True)
    tau_s, tau_t, scale = 2.0, 3.0, 5.0
    soft_kl(z_s, z_t, tau_s=tau_s, tau_t=tau_t, scale=scale).backward()
    p_s, p_t = (z_s / tau_s).softmax(1).detach(), (z_t / tau_t).softmax(1).detach()
    torch.testing.assert_close(z_s.grad, scale / tau_s * (p_s - p_t) / 5)
    surprise = p_t.log() - p_s.log()
    torch.testing.assert_close(z_t.grad, scale / tau_t * p_t * (surprise - (p_t * surprise).sum(1, keepdim=True)) / 5)


def test_soft_kl_gradients_by_finite_differences():
    z_s, z_t = pair(3, 4, grad=True)
    tau_s, tau_t, scale = ((0.5 + logits(3, 1, seed=seed).abs()).requires_grad_() for seed in (3, 4, 5))

    def loss(*values):
        return soft_kl(values[0], values[1], tau_s=values[2], tau_t=values[3], scale=values[4])

    assert gradcheck(loss, (z_s, z_t, tau_s, tau_t, scale))


def test_cross_entropy_of_the_paper_has_the_same_student_gradient():
    z_s, z_t = pair(grad=True)
    (of_kl,) = torch.autograd.grad(soft_kl(z_s, z_t, tau_s=2.0, tau_t=2.0, scale=1.0), z_s)
    printed = -((z_t / 2).softmax(1) * (z_s / 2).log_softmax(1)).sum(1).mean()
    (of_cross_entropy,) = torch.autograd.grad(printed, z_s)
    torch.testing.assert_close(of_kl, of_cross_entropy)


@pytest.mark.parametrize("loss", [kd, atkd], ids=["kd", "atkd"])
def test_losses_are_averaged_over_the_batch_and_summed_over_classes(loss):
    z_s, z_t = pair()
    single = torch.stack([loss(z_s[i : i + 1], z_t[i : i + 1]) for i in range(5)])
    assert loss(z_s, z_t).item() == pytest.approx(single.mean().item(), rel=1e-12)
    # Every class twice halves each probability and leaves the KL as it is; a mean over classes would halve it too.
    assert loss(z_s.repeat(1, 2), z_t.repeat(1, 2)).item() == pytest.approx(loss(z_s, z_t).item(), rel=1e-12)


# kd


def test_kd_by_hand():
    # At tau 4 the teacher predicts (3/4, 1/4) and the student (1/2, 1/2).
    z_t, z_s = torch.tensor([[4 * LN3, 0.0]], dtype=torch.float64), torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    expected = 16 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert kd(z_s, z_t).item() == pytest.approx(expected)
    assert kd(z_s, z_t, tau=2.0).item() == pytest.approx(4 * (0.9 * math.log(1.8) + 0.1 * math.log(0.2)))


def test_kd_of_equal_logits_is_zero_and_still():
    z_s, z_t = logits(4, 6).requires_grad_(), logits(4, 6) + 3.0
    loss = kd(z_s, z_t)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-13)
    assert z_s.grad.abs().max().item() < 1e-13


def test_kd_at_high_temperature_is_the_squared_error_of_centred_logits():
    z_s, z_t = pair(grad=True)
    centred_s, centred_t = (z - z.mean(1, keepdim=True) for z in (z_s.detach(), z_t.detach()))
    limit = (centred_s - centred_t).square().sum(1).mean().item() / (2 * 7)
    (gradient,) = torch.autograd.grad(kd(z_s, z_t, tau=1e5), z_s)
    torch.testing.assert_close(gradient, (centred_s - centred_t) / 7 / 5, rtol=1e-3, atol=1e-6)  # ATKD Eq. 14 x tau^2
    errors = [abs(kd(z_s, z_t, tau=tau).item() / limit - 1) for tau in (1e3, 2e3, 4e3)]
    assert errors[0] < 0.01
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)  # what is left falls with 1/tau
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.02)


# atkd


def test_sigma_by_hand():
    z = torch.tensor([[3.0, 1.0, 1.0, -1.0], [5.0, 5.0, 5.0, 5.0]], dtype=torch.float64)
    torch.testing.assert_close(sigma(z)[0].item(), math.sqrt(8 / 4))
    torch.testing.assert_close(sigma(z, unbiased=True)[0].item(), math.sqrt(8 / 3))
    assert sigma(z)[1].item() == pytest.approx(1e-6)
    assert sigma(z).shape == (2, 1)


def test_atkd_by_hand():
    # sigma_t = 2 and sigma_s = 1/2, so the tempered logits are (1, -1, 1, -1) and (1, 1, -1, -1) up to a shift.
    # With e = exp(1): p_t = (e^2, 1, e^2, 1) / 2(e^2 + 1); the log-ratios are 0, -2, 2, 0.
    z_t = torch.tensor([[12.0, 8.0, 12.0, 8.0]], dtype=torch.float64)
    z_s = torch.tensor([[0.5, 0.5, -0.5, -0.5]], dtype=torch.float64)
    expected = 2 * (math.e**2 - 1) / (2 * (math.e**2 + 1))
    assert expected == pytest.approx(math.tanh(1))
    assert atkd(z_s, z_t).item() == pytest.approx(expected)
    assert atkd(z_s, z_t, scale=16.0).item() == pytest.approx(16 * expected)
    assert atkd(z_s, z_t, scale="sigma").item() == pytest.approx(2 * 0.5 * expected)


def test_atkd_with_two_classes_knows_only_who_wins():
    # Two logits are always one sigma above and one below their mean: p = (e^2, 1)/(e^2 + 1), whatever their distance.
    z_s = torch.tensor([[0.1, 0.0], [0.0, 7.0]], dtype=torch.float64, requires_grad=True)
    z_t = torch.tensor([[9.0, 2.0], [5.0, 1.0]], dtype=torch.float64)
    loss = atkd(z_s, z_t)
    loss.backward()
    assert loss.item() == pytest.approx((0 + 2 * math.tanh(1)) / 2)
    assert z_s.grad.abs().max().item() < 1e-12


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("scale", ["none", "sigma", 16.0])
def test_atkd_equals_the_loop(scale, unbiased):
    z_s, z_t = pair()
    tau_s, tau_t = ([slow_sigma(row, int(unbiased)) for row in z.tolist()] for z in (z_s, z_t))
    factors = {"none": [1.0] * 5, "sigma": [a * b for a, b in zip(tau_s, tau_t, strict=True)], 16.0: [16.0] * 5}
    expected = slow_soft_kl(z_s, z_t, tau_s, tau_t, factors[scale])
    assert atkd(z_s, z_t, scale=scale, unbiased=unbiased).item() == pytest.approx(expected, rel=1e-12)


def test_atkd_ignores_the_size_of_either_side():
    z_s, z_t = pair(grad=True)
    loss = atkd(z_s, z_t)
    assert atkd(z_s, 3.7 * z_t).item() == pytest.approx(loss.item(), rel=1e-12)
    assert atkd(0.2 * z_s, z_t).item() == pytest.approx(loss.item(), rel=1e-12)
    loss.backward()
    for z in (z_s, z_t):  # so each gradient is orthogonal to its logits, and to a shift of all of them
        assert z.grad.abs().max().item() > 1e-3
        torch.testing.assert_close((z.grad * z).sum(1), torch.zeros(5, dtype=torch.float64))
        torch.testing.assert_close(z.grad.sum(1), torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("scale", ["none", 16.0])
def test_atkd_gradients_through_sigma_by_finite_differences(scale):
    assert gradcheck(lambda z_s, z_t: atkd(z_s, z_t, scale=scale), pair(3, 4, grad=True))


def test_detached_sigma_is_a_constant_temperature():
    z_s, z_t = pair(grad=True)
    detached = torch.autograd.grad(atkd(z_s, z_t, detach_tau=True), (z_s, z_t))
    tau_s, tau_t = sigma(z_s).detach(), sigma(z_t).detach()
    constant = torch.autograd.grad(soft_kl(z_s, z_t, tau_s=tau_s, tau_t=tau_t, scale=1.0), (z_s, z_t))
    through = torch.autograd.grad(atkd(z_s, z_t), (z_s, z_t))
    for a, b, c in zip(detached, constant, through, strict=True):
        torch.testing.assert_close(a, b)
        assert (a - c).abs().max().item() > 1e-3


def test_the_sigma_scale_only_multiplies_the_gradient():
    z_s, z_t = pair(1, 7, grad=True)
    plain = torch.autograd.grad(atkd(z_s, z_t), (z_s, z_t))
    scaled = torch.autograd.grad(atkd(z_s, z_t, scale="sigma"), (z_s, z_t))
    factor = sigma(z_s).item() * sigma(z_t).item()
    for a, b in zip(plain, scaled, strict=True):
        torch.testing.assert_close(a * factor, b)


def test_atkd_of_constant_logits_is_finite():
    z_s = torch.full((2, 4), 5.3, requires_grad=True)
    loss = atkd(z_s, logits(2, 4, dtype=torch.float32))
    loss.backward()
    assert math.isfinite(loss.item()) and loss.item() > 0
    assert z_s.grad.isfinite().all()


# numerics


@pytest.mark.parametrize("loss", [kd, atkd, lambda z_s, z_t: kd(z_s, z_t, tau=0.1)], ids=["kd", "atkd", "sharp kd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_give_finite_losses_and_gradients_on_both_sides(loss, dtype):
    z_s, z_t = (1e4 * torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, 1.0]]).roll(turn, 1) for turn in (0, 1))
    z_s, z_t = (z.to(dtype).requires_grad_() for z in (z_s, z_t))
    value = loss(z_s, z_t)
    value.backward()
    assert value.isfinite() and value > 0
    assert z_s.grad.isfinite().all() and z_t.grad.isfinite().all()


@pytest.mark.parametrize("loss", [kd, atkd], ids=["kd", "atkd"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_cost_no_more_than_their_own_rounding(loss, dtype):
    z_s, z_t = (z.to(dtype) for z in pair(8, 100))
    assert loss(z_s, z_t).dtype == torch.float32
    assert loss(z_s, z_t).item() == pytest.approx(loss(z_s.double(), z_t.double()).item(), rel=1e-5)


# errors


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, math.inf, torch.tensor(0.0), torch.tensor([[1.0], [-2.0]])])
def test_temperatures_must_be_positive(tau):
    z_s, z_t = logits(2, 3, seed=1), logits(2, 3, seed=2)
    with pytest.raises(ValueError, match=r"tau_s must be .*positive"):
        soft_kl(z_s, z_t, tau_s=tau, tau_t=1.0, scale=1.0)
    with pytest.raises(ValueError, match=r"tau_t must be .*positive"):
        soft_kl(z_s, z_t, tau_s=1.0, tau_t=tau, scale=1.0)
    with pytest.raises(ValueError, match="positive"):
        kd(z_s, z_t, tau=tau)


@pytest.mark.parametrize("name", ["tau_s", "tau_t", "scale"])
def test_one_number_for_each_sample_must_stand_in_a_column(name):
    settings = {"tau_s": 1.0, "tau_t": 1.0, "scale": 1.0, name: torch.ones(4)}
    with pytest.raises(ValueError, match=rf"{name} must be one number or a \[4, 1\] tensor, got shape \[4\]"):
        soft_kl(logits(4, 4), logits(4, 4), **settings)  # [4] would broadcast along the 4 classes


@pytest.mark.parametrize("loss", [kd, atkd], ids=["kd", "atkd"])
@pytest.mark.parametrize("shapes", [((4, 3), (4, 5)), ((4, 3), (1, 3)), ((3,), (3,)), ((2, 4, 3), (2, 4, 3))], ids=str)
def test_logits_must_be_two_matrices_of_one_shape(loss, shapes):
    with pytest.raises(ValueError, match="of one shape"):
        loss(logits(*shapes[0]), logits(*shapes[1]))


def test_an_unknown_scale_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"scale of atkd: 'sgima'. Did you mean 'sigma'"):
        atkd(*pair(), scale="sgima")
    with pytest.raises(ValueError, match=r"scale must be a positive, finite number, got -16"):
        atkd(*pair(), scale=-16.0)


LOGITS = "kd atkd skd normkd logit_std dtkd ttm wttm ctkd dkd dist"
FEATURES = "fitnet at sp cc vid rkd pkt nst ab ft fsp crd sskd ofd pkd"


@pytest.mark.parametrize("name", f"{LOGITS} {FEATURES}".split())
def test_the_loss_of_a_method_has_its_name(name):
    assert name in losses.__all__ and name in METHODS
    assert "Source" in getattr(losses, name).__doc__
