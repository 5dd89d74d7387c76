"""The family of temperatures against slow loops, what all of it shares, and the sizes of its gradients."""

import math

import pytest
import torch
from slow import logits, pair, slow_kl, slow_sigma, slow_softmax
from torch.autograd import gradcheck

from kd_lib.losses import atkd, ctkd, dist, dtkd, kd, logit_std, normkd, skd, ttm, wttm

THETA = torch.tensor(1.0, dtype=torch.float64)


def ctkd_at_one(z_s, z_t):
    return ctkd(z_s, z_t, theta=THETA)


FAMILY = {
    "skd": skd,
    "normkd": normkd,
    "logit_std": logit_std,
    "dtkd": dtkd,
    "ttm": ttm,
    "wttm": wttm,
    "ctkd": ctkd_at_one,
}
EACH = pytest.mark.parametrize("loss", FAMILY.values(), ids=FAMILY)


def slow_z(row: list[float], ddof: int = 0) -> list[float]:
    mean, size = sum(row) / len(row), slow_sigma(row, ddof)
    return [(value - mean) / size for value in row]


def slow_skd(s, t):
    rescaled = [value * slow_sigma(t) / slow_sigma(s) for value in s]
    return 16 * slow_kl(slow_softmax(t, 4.0), slow_softmax(rescaled, 4.0))


def slow_normkd(s, t):
    return (2 * slow_sigma(t)) ** 2 * slow_kl(slow_softmax(slow_z(t), 2.0), slow_softmax(slow_z(s), 2.0))


def slow_logit_std(s, t):
    return 4 * slow_kl(slow_softmax(slow_z(t), 2.0), slow_softmax(slow_z(s), 2.0))


def slow_dtkd(s, t):
    m_s, m_t = (math.log(sum(math.exp(value) for value in row)) for row in (s, t))
    tau_s, tau_t = (8 * m / (m_s + m_t) for m in (m_s, m_t))
    return tau_s * tau_t * slow_kl(slow_softmax(t, tau_t), slow_softmax(s, tau_s))


def slow_powers(t):
    return [p**0.1 for p in slow_softmax(t)]


def slow_ttm(s, t):
    powers = slow_powers(t)
    return slow_kl([power / sum(powers) for power in powers], slow_softmax(s))


def slow_wttm(s, t):
    return sum(slow_powers(t)) * slow_ttm(s, t)


def slow_ctkd(s, t):
    tau = 1 + 20 / (1 + math.exp(-1))
    return tau**2 * slow_kl(slow_softmax(t, tau), slow_softmax(s, tau))


SLOW = [slow_skd, slow_normkd, slow_logit_std, slow_dtkd, slow_ttm, slow_wttm, slow_ctkd]


# all of them


@pytest.mark.parametrize(("loss", "slow"), list(zip(FAMILY.values(), SLOW, strict=True)), ids=FAMILY)
@pytest.mark.parametrize("shape", [(5, 7), (1, 3), (3, 20)], ids=str)
def test_each_loss_equals_the_loop(loss, slow, shape):
    z_s, z_t = pair(*shape)
    expected = sum(slow(s, t) for s, t in zip(z_s.tolist(), z_t.tolist(), strict=True)) / len(z_s)
    assert loss(z_s, z_t).item() == pytest.approx(expected, rel=1e-12)


@EACH
def test_gradients_of_both_sides_by_finite_differences(loss):
    assert gradcheck(loss, pair(3, 4, grad=True))


@EACH
def test_losses_are_averaged_over_the_batch_and_summed_over_classes(loss):
    z_s, z_t = pair()
    single = torch.stack([loss(z_s[i : i + 1], z_t[i : i + 1]) for i in range(5)])
    assert loss(z_s, z_t).item() == pytest.approx(single.mean().item(), rel=1e-12)
    if loss in (dtkd, wttm):
        return  # their temperatures and weights depend on the number of classes
    # Every class twice halves each probability and leaves the KL as it is; a mean over classes would halve it too.
    assert loss(z_s.repeat(1, 2), z_t.repeat(1, 2)).item() == pytest.approx(loss(z_s, z_t).item(), rel=1e-12)


@EACH
def test_a_shift_of_all_logits_changes_nothing_but_dtkd(loss):
    z_s, z_t = pair()
    shift = 1 + logits(5, 1, seed=9).abs()
    for moved in (loss(z_s + shift, z_t), loss(z_s, z_t + shift)):
        same = moved.item() == pytest.approx(loss(z_s, z_t).item(), rel=1e-12)
        assert same == (loss is not dtkd)


@EACH
def test_a_detached_teacher_gets_no_gradient_and_a_live_one_does(loss):
    z_s, z_t = pair(grad=True)
    loss(z_s, z_t.detach()).backward()
    assert z_t.grad is None and z_s.grad.abs().max().item() > 1e-3
    loss(z_s, z_t).backward()
    assert z_t.grad.abs().max().item() > 1e-4


@EACH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_cost_no_more_than_their_own_rounding(loss, dtype):
    z_s, z_t = (z.to(dtype) for z in pair(8, 100))
    assert loss(z_s, z_t).item() == pytest.approx(loss(z_s.double(), z_t.double()).item(), rel=1e-5)


@EACH
def test_extreme_logits_give_finite_losses_and_gradients_on_both_sides(loss):
    z_s, z_t = (1e4 * torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, 1.0]]).roll(turn, 1) for turn in (0, 1))
    z_s, z_t = z_s.requires_grad_(), z_t.requires_grad_()
    value = loss(z_s, z_t)
    value.backward()
    assert value.isfinite() and value > 0
    assert z_s.grad.isfinite().all() and z_t.grad.isfinite().all()


@EACH
def test_logits_must_be_two_matrices_of_one_shape(loss):
    with pytest.raises(ValueError, match="of one shape"):
        loss(logits(4, 3), logits(1, 3))


# the sizes of their gradients


def at_sigma(z: torch.Tensor, size: float) -> torch.Tensor:
    return size * (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True, correction=0)


def gradient_sizes(sigma_s: float, sigma_t: float) -> dict[str, float]:
    """Mean length of each sample's gradient in z_s, unweighted, for 100 classes and a half-trained student."""
    z_t = logits(64, 100, seed=3)
    z_s = at_sigma(z_t + logits(64, 100, seed=4), sigma_s).requires_grad_()
    z_t = at_sigma(z_t, sigma_t)
    family = {
        "kd": kd,
        "atkd": atkd,
        "atkd_16": lambda a, b: atkd(a, b, scale=16.0),
        **FAMILY,
        "dist": dist,
    }
    return {
        name: torch.autograd.grad(64 * loss(z_s, z_t), z_s)[0].norm(dim=1).mean().item()
        for name, loss in family.items()
    }


def test_printed_atkd_is_an_order_of_magnitude_weaker_than_kd():
    """At the spread of ATKD Table 13, sigma 3.5: scale over temperature is 16 / 4 for KD and 1 / 3.5, so 14 if all were linear."""
    sizes = gradient_sizes(3.5, 3.5)
    assert 10 < sizes["kd"] / sizes["atkd"] < 4 * 3.5
    z_t = at_sigma(logits(8, 100, seed=3), 3.5)
    z_s = at_sigma(z_t + logits(8, 100, seed=4), 3.5).requires_grad_()
    (strong,) = torch.autograd.grad(kd(z_s, z_t, tau=3.5), z_s)
    (weak,) = torch.autograd.grad(atkd(z_s, z_t, detach_tau=True), z_s)
    torch.testing.assert_close(strong, 3.5**2 * weak)  # at the same temperature exactly the missing factor


def test_gradient_sizes_of_the_family_are_those_of_one_formula():
    sizes = gradient_sizes(3.0, 4.0)
    assert sizes["atkd_16"] / sizes["atkd"] == pytest.approx(16)
    assert sizes["normkd"] / sizes["logit_std"] == pytest.approx(4.0**2)  # the teacher's variance
    assert sizes["skd"] == pytest.approx(sizes["atkd_16"])  # a teacher of sigma 4 is at temperature sigma in both
    z_s, z_t = logits(8, 100, seed=3), at_sigma(logits(8, 100, seed=4), 4.0)
    assert skd(z_s, z_t, tau=8.0).item() == pytest.approx(normkd(z_s, z_t, tau=2.0).item(), rel=1e-12)
    sharing_a_formula = [size for name, size in sizes.items() if name not in ("ttm", "wttm", "dist")]
    assert max(sharing_a_formula) / min(sharing_a_formula) > 14
