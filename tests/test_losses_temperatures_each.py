"""The losses of the family of temperatures one by one: hand-worked values and identities."""

import itertools
import math

import pytest
import torch
from slow import logits, pair

from kd_lib import losses
from kd_lib.losses import atkd, ctkd, dtkd, dtkd_temperatures, kd, logit_std, normkd, sigma, skd, ttm, wttm

# sigma on one or both sides


def test_skd_is_kd_after_the_student_took_the_teachers_size():
    z_s, z_t = pair()
    rescaled = z_s * sigma(z_t) / sigma(z_s)
    assert skd(z_s, z_t).item() == pytest.approx(kd(rescaled, z_t).item(), rel=1e-12)
    assert skd(rescaled, z_t).item() == pytest.approx(kd(rescaled, z_t).item(), rel=1e-12)  # equal sizes: nothing to do
    assert skd(0.1 * z_s, z_t).item() == pytest.approx(skd(z_s, z_t).item(), rel=1e-12)
    assert abs(skd(z_s, 0.1 * z_t).item() / skd(z_s, z_t).item() - 1) > 0.5  # the teacher's size does count


def test_logit_std_is_kd_of_z_scores_and_atkd_at_tau_one():
    z_s, z_t = pair()
    scores = [(z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True, correction=0) for z in (z_s, z_t)]
    assert logit_std(z_s, z_t, tau=3.0).item() == pytest.approx(kd(*scores, tau=3.0).item(), rel=1e-12)
    assert logit_std(*scores, tau=3.0).item() == pytest.approx(kd(*scores, tau=3.0).item(), rel=1e-12)
    assert logit_std(z_s, z_t, tau=1.0).item() == pytest.approx(atkd(z_s, z_t).item(), rel=1e-12)


def test_normkd_weights_each_sample_of_logit_std_by_the_teachers_variance():
    z_s, z_t = pair()
    for s, t in zip(z_s.split(1), z_t.split(1), strict=True):
        assert normkd(s, t).item() == pytest.approx(sigma(t).item() ** 2 * logit_std(s, t).item(), rel=1e-12)


def test_the_authors_spherical_code_is_logit_std_times_a_constant():
    """Both sides at sigma 2 and temperature 4: a standardised temperature of 2, and 16 in front instead of 4."""
    z_s, z_t = pair()
    at_two = [2 * (z - z.mean(1, keepdim=True)) / sigma(z) for z in (z_s, z_t)]
    assert kd(*at_two, tau=4.0).item() == pytest.approx(4 * logit_std(z_s, z_t, tau=2.0).item(), rel=1e-12)


@pytest.mark.parametrize("loss", [skd, normkd, logit_std])
def test_the_students_size_has_no_gradient(loss):
    z_s, z_t = pair(grad=True)
    (gradient,) = torch.autograd.grad(loss(z_s, z_t), z_s)
    assert gradient.abs().max().item() > 1e-2
    torch.testing.assert_close((gradient * z_s).sum(1), torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("loss", [normkd, logit_std])
def test_unbiased_sigma_only_raises_the_temperatures(loss):
    z_s, z_t = pair()
    more = math.sqrt(7 / 6)  # C / (C - 1)
    factor = 1.0 if loss is normkd else more**2
    expected = loss(z_s, z_t, tau=2 * more).item() / factor
    assert loss(z_s, z_t, tau=2.0, unbiased=True).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [skd, normkd, logit_std])
@pytest.mark.parametrize("flat", [0, 1], ids=["student", "teacher"])
def test_constant_logits_are_finite(loss, flat):
    z = [logits(2, 4, dtype=torch.float32), logits(2, 4, seed=1, dtype=torch.float32)]
    z[flat] = torch.full((2, 4), 5.3)
    z[0].requires_grad_()
    loss(*z).backward()
    assert z[0].grad.isfinite().all()


# dtkd


def test_dtkd_temperatures_by_hand():
    # logsumexp is log 4 for the student and log 16 = 2 log 4 for the teacher: the budget of 8 is divided 1 : 2.
    z_s, z_t = torch.zeros(1, 4, dtype=torch.float64), torch.full((1, 4), math.log(4), dtype=torch.float64)
    tau_s, tau_t = dtkd_temperatures(z_s, z_t)
    assert (tau_s.item(), tau_t.item()) == (pytest.approx(8 / 3), pytest.approx(16 / 3))


def test_dtkd_temperatures_share_the_budget_and_give_both_sides_one_sharpness_per_temperature():
    z_s, z_t = pair()
    tau_s, tau_t = dtkd_temperatures(z_s, z_t, tau=3.0)
    torch.testing.assert_close(tau_s + tau_t, torch.full((5, 1), 6.0, dtype=torch.float64))
    torch.testing.assert_close(z_s.logsumexp(1, keepdim=True) / tau_s, z_t.logsumexp(1, keepdim=True) / tau_t)
    assert tau_s.shape == (5, 1)


def test_dtkd_of_equally_sharp_sides_is_kd():
    z_t = logits(5, 7)
    assert dtkd(z_t.flip(1), z_t).item() == pytest.approx(kd(z_t.flip(1), z_t).item(), rel=1e-12)


def test_dtkd_says_when_logits_leave_it_without_a_temperature():
    z_s, z_t = pair()
    for low in ((z_s - 30, z_t), (z_s - 30, z_t - 30)):  # both negative would give positive temperatures without sense
        with pytest.raises(ValueError, match=r"sharpness of the student must be positive.*Centre"):
            dtkd(*low)
    with pytest.raises(ValueError, match=r"sharpness of the teacher must be positive"):
        dtkd(z_s, z_t - 30)
    centred = [z - z.mean(1, keepdim=True) for z in (z_s, z_t)]
    assert min(z.logsumexp(1).min().item() for z in centred) > math.log(7)  # so centred logits never do
    assert dtkd(*centred).isfinite()


# ttm, wttm


def test_ttm_by_hand():
    # The teacher predicts (16/17, 1/17); its fourth root is 2 : 1. The student predicts (1/2, 1/2).
    z_s, z_t = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[math.log(16), 0.0]], dtype=torch.float64)
    expected = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert ttm(z_s, z_t, gamma=0.25).item() == pytest.approx(expected)
    power_sum = (16 / 17) ** 0.25 + (1 / 17) ** 0.25
    assert wttm(z_s, z_t, gamma=0.25).item() == pytest.approx(power_sum * expected)


@pytest.mark.parametrize("gamma", [0.1, 0.25, 0.5])
def test_ttm_is_kd_with_a_renyi_entropy(gamma):
    """Zheng & Yang Eq. 15, with T = 1 / gamma."""
    z_s, z_t = pair(1, 7)
    temperature = 1 / gamma
    p_s, p_hat = z_s.softmax(1), (z_t * gamma).softmax(1)
    renyi = (p_s**gamma).sum().log() / (1 - gamma)
    entropy = -(p_hat * p_hat.log()).sum()
    kl = kd(z_s, z_t, tau=temperature) / temperature**2
    expected = temperature * kl - (temperature - 1) * renyi + (temperature - 1) * entropy
    assert ttm(z_s, z_t, gamma=gamma).item() == pytest.approx(expected.item(), rel=1e-9)


def test_ttm_at_gamma_one_is_the_kl_and_so_is_wttm():
    z_s, z_t = pair()
    for loss in (ttm, wttm):
        assert loss(z_s, z_t, gamma=1.0).item() == pytest.approx(kd(z_s, z_t, tau=1.0).item(), rel=1e-12)


def test_ttm_pulls_the_untempered_student_to_the_smoothed_teacher():
    z_s, z_t = pair(grad=True)
    (gradient,) = torch.autograd.grad(ttm(z_s, z_t, gamma=0.2), z_s)
    torch.testing.assert_close(gradient, (z_s.softmax(1) - (0.2 * z_t).softmax(1)) / 5)  # Eq. 20


def test_wttm_weights_lie_between_a_sure_and_a_uniform_teacher():
    sure, uniform = torch.tensor([[200.0, 0.0, 0.0, 0.0]]).double(), torch.zeros(1, 4).double()
    z_s = logits(1, 4)
    for z_t, weight in ((uniform, 4**0.75), (sure, 1.0)):
        assert wttm(z_s, z_t, gamma=0.25).item() == pytest.approx(weight * ttm(z_s, z_t, gamma=0.25).item(), rel=1e-9)


@pytest.mark.parametrize("loss", [ttm, wttm])
@pytest.mark.parametrize("gamma", [0.0, -0.1, 1.5, math.nan])
def test_gamma_out_of_range_is_refused(loss, gamma):
    with pytest.raises(ValueError, match="gamma must"):
        loss(*pair(), gamma=gamma)


# ctkd


def test_ctkd_is_kd_at_the_learned_temperature():
    z_s, z_t = pair()
    for theta, tau in ((0.0, 11.0), (math.log(3), 16.0), (-math.log(3), 6.0)):
        value = torch.tensor(theta, dtype=torch.float64)
        assert losses.learned_temperature(value).item() == pytest.approx(tau)
        assert ctkd(z_s, z_t, theta=value).item() == pytest.approx(kd(z_s, z_t, tau=tau).item(), rel=1e-12)


@pytest.mark.parametrize("weight", [-1.0, -0.3, 0.0, 1.0])
def test_ctkd_scales_the_gradient_of_theta_and_no_other(weight):
    z_s, z_t = pair(grad=True)
    theta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    plain = torch.autograd.grad(kd(z_s, z_t, tau=1 + 20 * theta.sigmoid()), (z_s, z_t, theta))
    value = ctkd(z_s, z_t, theta=theta, gradient_weight=weight)
    of_s, of_t, of_theta = torch.autograd.grad(value, (z_s, z_t, theta))
    torch.testing.assert_close(of_s, plain[0])
    torch.testing.assert_close(of_t, plain[1])
    assert abs(plain[2].item()) > 1e-3
    assert of_theta.item() == pytest.approx(weight * plain[2].item(), abs=1e-15)


def test_descent_moves_theta_so_that_the_loss_grows():
    z_s, z_t = pair()
    theta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    values = []
    for _ in range(20):
        value = ctkd(z_s, z_t, theta=theta, gradient_weight=-1.0)
        values.append(value.item())
        (gradient,) = torch.autograd.grad(value, theta)
        theta = (theta - 0.05 * gradient).detach().requires_grad_()
    assert all(later > earlier for earlier, later in itertools.pairwise(values))


# unequal temperatures of kd


def test_kd_with_a_temperature_for_each_side_by_hand():
    # The student at tau 2 predicts (1/2, 1/2), the teacher at tau 3 (3/4, 1/4).
    z_s, z_t = torch.ones(1, 2, dtype=torch.float64), torch.tensor([[3 * math.log(3), 0.0]], dtype=torch.float64)
    expected = 6 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert kd(z_s, z_t, tau=2.0, tau_teacher=3.0).item() == pytest.approx(expected)


def test_kd_with_equal_temperatures_needs_no_second_one():
    z_s, z_t = pair()
    assert kd(z_s, z_t, tau=4.0, tau_teacher=4.0).item() == kd(z_s, z_t, tau=4.0).item()


@pytest.mark.parametrize(("tau", "tau_teacher"), [(3.5, 4.0), (4.0, 5.0)])
def test_unequal_temperatures_ask_for_a_student_of_another_size(tau, tau_teacher):
    z_t = logits(5, 7)
    matched = (z_t * tau / tau_teacher).requires_grad_()
    value = kd(matched, z_t, tau=tau, tau_teacher=tau_teacher)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-13) and matched.grad.abs().max().item() < 1e-13


def test_the_product_of_temperatures_keeps_the_teachers_pull():
    z_s, z_t = (z - z.mean(1, keepdim=True) for z in pair())
    z_s.requires_grad_()
    for tau, tau_teacher in ((1e5, 1e5), (2e5, 1e5), (1e5, 3e5)):
        (gradient,) = torch.autograd.grad(kd(z_s, z_t, tau=tau, tau_teacher=tau_teacher), z_s)
        expected = (z_s.detach() * tau_teacher / tau - z_t) / 7 / 5
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
