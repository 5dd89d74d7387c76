"""Metrics of predictions against hand-worked values, slow loops and identities."""

import math

import numpy as np
import pytest
import torch

from kd_lib import metrics
from kd_lib.losses import kd, label_smoothing, sigma

LN3 = math.log(3)


def logits(*shape: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread


def softmax(row: list[float], tau: float = 1.0) -> list[float]:
    weights = [math.exp(value / tau) for value in row]
    return [weight / sum(weights) for weight in weights]


Z_S, Z_T, Y = logits(30, 6, seed=1), logits(30, 6, seed=2, spread=4.0), torch.arange(30) % 6

# sharpness


def test_sharpness_by_hand():
    # exp: 3 + 1 = 4 and 9 + 9 = 18; at tau 2: sqrt 3 + 1 and 3 + 3.
    z = torch.tensor([[LN3, 0.0], [2 * LN3, 2 * LN3]], dtype=torch.float64)
    assert metrics.sharpness(z).tolist() == pytest.approx([math.log(4), math.log(18)])
    assert metrics.sharpness(z, 2.0).tolist() == pytest.approx([math.log(math.sqrt(3) + 1), math.log(6)])
    each = torch.tensor([[1.0], [2.0]])
    assert metrics.sharpness(z, each).tolist() == pytest.approx([math.log(4), math.log(6)])


def test_sharpness_moves_with_a_shift_and_stays_finite():
    shifted = metrics.sharpness(Z_T + 5.0, 2.0)
    torch.testing.assert_close(shifted, metrics.sharpness(Z_T, 2.0) + 5.0 / 2.0)
    assert metrics.sharpness([[1e4, -1e4]]).item() == 1e4


def test_sharpness_gap_by_hand():
    # Teacher log 4 and log 18, student log 2 and log 2: log 2 and log 9, on average log(18)/2.
    z_t = torch.tensor([[LN3, 0.0], [2 * LN3, 2 * LN3]], dtype=torch.float64)
    assert metrics.sharpness_gap(torch.zeros(2, 2), z_t) == pytest.approx(math.log(18) / 2)
    assert metrics.sharpness_gap(z_t, torch.zeros(2, 2)) == pytest.approx(-math.log(18) / 2)
    expected = (math.log(math.sqrt(3) + 1) + math.log(6)) / 2 - (math.log(4) + math.log(18)) / 2
    assert metrics.sharpness_gap(z_t, z_t, tau_t=2.0) == pytest.approx(expected)
    assert metrics.sharpness_gap(z_t, z_t, tau_s=2.0) == pytest.approx(-expected)


def test_adaptive_temperatures_are_each_samples_own_sigma():
    expected = (metrics.sharpness(Z_T, sigma(Z_T)) - metrics.sharpness(Z_S, sigma(Z_S))).mean().item()
    gap = metrics.sharpness_gap(Z_S, Z_T, tau_s="sigma", tau_t="sigma")
    assert gap == pytest.approx(expected)
    # ATKD Eq. 15 lets the gap fall with tau; but sigma follows the logits, so nothing they do to their size changes it.
    centred_s, centred_t = (z - z.mean(1, keepdim=True) for z in (Z_S, Z_T))
    adaptive = [metrics.sharpness_gap(centred_s, c * centred_t, tau_s="sigma", tau_t="sigma") for c in (1, 0.1, 9)]
    assert adaptive == pytest.approx([adaptive[0]] * 3, rel=1e-9)
    assert abs(adaptive[0]) > 1e-3


def test_taylor_by_hand():
    # Mean 1, variance (4 + 4)/4 = 2: log 4 + log(1 + 2/2) = log 8; at tau 2 log 4 + log(1 + 2/8) = log 5.
    # Uncentred, Eq. 9: log(4 + (3 + 1 + 1 - 1) + (9 + 1 + 1 + 1)/2) = log 14.
    z = torch.tensor([[3.0, 1.0, 1.0, -1.0]])
    assert metrics.taylor_sharpness(z).item() == pytest.approx(math.log(8))
    assert metrics.taylor_sharpness(z, 2.0).item() == pytest.approx(math.log(5))
    assert metrics.taylor_sharpness(z, centred=False).item() == pytest.approx(math.log(14))
    student = torch.tensor([[1.0, 0.0, 0.0, -1.0]])  # variance 1/2: log(1 + 1/4)
    assert metrics.taylor_gap(student, z) == pytest.approx(math.log(2) - math.log(1.25))
    assert metrics.taylor_gap(student, z, tau_s=0.5, tau_t=2.0) == pytest.approx(math.log(1.25) - math.log(2))


def test_taylor_of_adaptive_temperatures_is_zero_where_the_true_gap_is_not():
    assert metrics.taylor_gap(Z_S, Z_T, tau_s="sigma", tau_t="sigma") == pytest.approx(0.0, abs=1e-12)
    assert abs(metrics.sharpness_gap(Z_S, Z_T, tau_s="sigma", tau_t="sigma")) > 0.01


@pytest.mark.parametrize(("z", "order"), [([[6.0, -2.0, -2.0, -2.0]], 8), ([[6.0, -6.0, 2.0, -2.0]], 16)], ids=str)
def test_taylor_error_is_of_third_order_and_of_fourth_for_symmetric_logits(z, order):
    errors = [(metrics.sharpness(z, tau) - metrics.taylor_sharpness(z, tau)).abs().item() for tau in (500, 1000, 2000)]
    assert errors[0] / errors[1] == pytest.approx(order, rel=0.01)
    assert errors[1] / errors[2] == pytest.approx(order, rel=0.01)
    far = (metrics.sharpness(z) - metrics.taylor_sharpness(z)).item()
    assert far > 2  # at tau 1 the expansion misses e^2 and more


def test_logit_statistics_by_hand():
    # Deviations 2, 0, 0, -2 and 1, 1, -1, -1: sigma is sqrt 2 and 1; sums 4 and -8; maxima 2 and 1 above the mean.
    z = torch.tensor([[3.0, 1.0, 1.0, -1.0], [-1.0, -1.0, -3.0, -3.0]])
    assert metrics.logit_std(z) == pytest.approx((math.sqrt(2) + 1) / 2)
    assert metrics.logit_sum(z) == pytest.approx(-2.0)
    assert metrics.major_logit(z).tolist() == pytest.approx([2.0, 1.0])
    assert metrics.major_logit(3 * z + 7).tolist() == pytest.approx([6.0, 3.0])


# agreement


def test_accuracy_and_agreement_by_hand():
    z_s = [[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 5.0]]  # predicts 0 1 0 1
    z_t = [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]  # predicts 1 1 0 1
    assert metrics.accuracy(z_s, [0, 0, 0, 1]) == 0.75
    assert metrics.accuracy(z_t, [0, 0, 0, 1]) == 0.5
    assert metrics.agreement(z_s, z_t) == 0.75


def test_kl_divergence_by_hand_and_against_the_loss():
    # Teacher (3/4, 1/4), student (1/2, 1/2).
    z_t, z_s = [[LN3, 0.0]], [[0.0, 0.0]]
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert metrics.kl_divergence(z_s, z_t) == pytest.approx(expected)
    assert metrics.kl_divergence([[0.0, 0.0]], [[4 * LN3, 0.0]], tau=4.0) == pytest.approx(expected)
    assert metrics.kl_divergence(Z_S, Z_T, tau=4.0) == pytest.approx(kd(Z_S, Z_T, tau=4.0).item() / 16)
    own = metrics.kl_divergence(Z_S / sigma(Z_S), Z_T / sigma(Z_T))
    assert metrics.kl_divergence(Z_S, Z_T, tau="sigma") == pytest.approx(own)


def test_probability_loyalty_equals_the_loop():
    for base in (2.0, math.e, 10.0):
        total = 0.0
        for row_s, row_t in zip(Z_S.tolist(), Z_T.tolist(), strict=True):
            p, q = softmax(row_s), softmax(row_t)
            middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
            js = sum(
                a * math.log(a / m, base) + b * math.log(b / m, base) for a, b, m in zip(p, q, middle, strict=True)
            )
            total += 1 - math.sqrt(js / 2)
        assert metrics.probability_loyalty(Z_S, Z_T, base) == pytest.approx(total / len(Z_S), rel=1e-12)


def test_probability_loyalty_ends_at_one_and_zero():
    here, there = [[1000.0, 0.0, 0.0]], [[0.0, 0.0, 1000.0]]
    assert metrics.probability_loyalty(Z_S, Z_S) == 1.0
    assert metrics.probability_loyalty(Z_S, Z_S + 1.0) == pytest.approx(1.0, abs=1e-6)
    assert metrics.probability_loyalty(here, there) == pytest.approx(0.0, abs=1e-12)
    assert metrics.probability_loyalty(here, there, base=math.e) == pytest.approx(1 - math.sqrt(math.log(2)))
    assert metrics.probability_loyalty(Z_S, Z_T) == metrics.probability_loyalty(Z_T, Z_S)


# confidence


def test_entropy_by_hand():
    # (3/4, 1/4) and (1/2, 1/2); all mass on one class has none.
    first = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert metrics.entropy([[LN3, 0.0], [0.0, 0.0]]) == pytest.approx((first + math.log(2)) / 2)
    assert metrics.entropy([[2 * LN3, 0.0]], tau=2.0) == pytest.approx(first)
    assert metrics.entropy([[1e4, -1e4, 0.0]]) == 0.0
    assert metrics.entropy(torch.zeros(3, 7)) == pytest.approx(math.log(7))


def test_calibration_error_by_hand():
    # Confidences .6 (right), .6 (wrong), .9 (right), .9 (right). Of four bins (.5, .75] has accuracy .5 against .6 and
    # (.75, 1] accuracy 1 against .9: (2 * .1 + 2 * .1)/4. One bin of all: accuracy .75 against .75.
    z = torch.tensor([[0.6, 0.4], [0.4, 0.6], [0.9, 0.1], [0.1, 0.9]], dtype=torch.float64).log()
    y = [0, 0, 0, 1]
    assert metrics.expected_calibration_error(z, y, bins=4) == pytest.approx(0.1)
    assert metrics.expected_calibration_error(z, y, bins=1) == pytest.approx(0.0, abs=1e-12)


def test_calibration_bins_hold_their_upper_edge():
    # .5 (right) lies in (0, .5], .9 (wrong) in (.5, 1]: (.5 + .9)/2. In one bin they would give (.9 - .5)/2.
    z = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64).log()
    assert metrics.expected_calibration_error(z, [0, 1], bins=2) == pytest.approx(0.7)


def test_calibration_error_equals_the_loop():
    z, y, bins = logits(500, 5, spread=1.5), torch.arange(500) % 5, 15
    groups = [[] for _ in range(bins)]
    for row, label in zip(z.tolist(), y.tolist(), strict=True):
        p = softmax(row)
        groups[math.ceil(max(p) * bins) - 1].append((max(p), p.index(max(p)) == label))
    gaps = [abs(sum(c for c, _ in g) / len(g) - sum(r for _, r in g) / len(g)) * len(g) for g in groups if g]
    assert metrics.expected_calibration_error(z, y, bins) == pytest.approx(sum(gaps) / 500, rel=1e-12)


MASK = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)


def test_shared_class_mass_by_hand():
    # Right class 0: (.1 + .05)/.3 on classes 1 and 3. Right class 2: .2/.5 on class 0.
    z = torch.tensor([[0.7, 0.1, 0.15, 0.05], [0.2, 0.2, 0.5, 0.1]], dtype=torch.float64).log()
    assert metrics.shared_class_mass(z, [0, 2], MASK) == pytest.approx((0.5 + 0.4) / 2)
    assert metrics.shared_class_mass(2 * z, [0, 2], MASK, tau=2.0) == pytest.approx(0.45)
    assert metrics.shared_class_mass(z, [0, 2], MASK | torch.eye(4, dtype=torch.bool)) == pytest.approx(0.45)


def test_shared_class_mass_equals_the_loop_at_every_temperature():
    z, y = logits(40, 4), torch.arange(40) % 4
    for tau in (0.5, 1.0, 4.0):
        shares = []
        for row, label in zip(z.tolist(), y.tolist(), strict=True):
            wrong = {c: p for c, p in enumerate(softmax(row, tau)) if c != label}
            shares.append(sum(p for c, p in wrong.items() if MASK[label, c]) / sum(wrong.values()))
        assert metrics.shared_class_mass(z, y, MASK, tau) == pytest.approx(sum(shares) / 40, rel=1e-12)
    own = metrics.shared_class_mass(z / sigma(z), y, MASK)
    assert metrics.shared_class_mass(z, y, MASK, "sigma") == pytest.approx(own)


def test_shared_class_mass_of_a_certain_network_is_exact():
    z, y = logits(40, 4), torch.arange(40) % 4
    certain = z.scatter(1, y[:, None], 1e4)  # in probabilities, the wrong classes would all read 0
    assert metrics.shared_class_mass(certain, y, MASK) == pytest.approx(metrics.shared_class_mass(z, y, MASK))


def test_shared_class_mass_by_chance_is_the_share_of_marked_classes():
    y = torch.arange(40) % 4
    smoothed = label_smoothing(y, 0.1, 4).log()
    chance = (2 + 1 + 1 + 3) / 4 / 3
    assert metrics.shared_class_mass(smoothed, y, MASK) == pytest.approx(chance, rel=1e-6)


# arguments

ON_PAIRS = [
    metrics.sharpness_gap,
    metrics.taylor_gap,
    metrics.kl_divergence,
    metrics.agreement,
    metrics.probability_loyalty,
]
TEMPERED = [
    metrics.sharpness,
    metrics.taylor_sharpness,
    metrics.entropy,
    lambda z, tau: metrics.kl_divergence(z, z, tau),
    lambda z, tau: metrics.sharpness_gap(z, z, tau_t=tau),
    lambda z, tau: metrics.taylor_gap(z, z, tau_s=tau),
    lambda z, tau: metrics.shared_class_mass(z, Y, torch.ones(6, 6), tau),
]


@pytest.mark.parametrize("metric", ON_PAIRS)
def test_metrics_of_pairs_take_arrays_and_return_floats(metric):
    expected = metric(Z_S, Z_T)
    assert isinstance(expected, float)
    assert metric(Z_S.numpy(), Z_T.numpy()) == expected
    assert metric(Z_S.clone().requires_grad_(), Z_T) == expected
    assert metric(Z_S.float(), np.float32(Z_T)) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"one shape, got student \[30, 6\] and teacher \[30, 5\]"):
        metric(Z_S, Z_T[:, :5])


@pytest.mark.parametrize("metric", TEMPERED)
def test_temperatures_are_checked(metric):
    expected = metric(Z_T, 2.0)
    for tau in (np.full((30, 1), 2.0), torch.tensor([2.0], requires_grad=True)):
        assert torch.equal(torch.as_tensor(metric(Z_T, tau)), torch.as_tensor(expected))
    for tau in (0.0, -2.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive"):
            metric(Z_T, tau)
    with pytest.raises(ValueError, match=r"one number or \[30, 1\], got shape \[30\]"):
        metric(Z_T, torch.ones(30))
    with pytest.raises(ValueError, match=r"temperature: 'sigme'. Did you mean 'sigma'"):
        metric(Z_T, "sigme")


def test_shapes_are_checked():
    for bad in (torch.zeros(0, 3), torch.zeros(3), torch.zeros(2, 3, 4)):
        with pytest.raises(ValueError, match="matrix"):
            metrics.sharpness(bad)
    for metric in (metrics.accuracy, metrics.expected_calibration_error, metrics.within_between_scatter):
        with pytest.raises(ValueError, match=r"each of 30 samples, got shape \[29\]"):
            metric(Z_T, Y[:29])
    with pytest.raises(ValueError, match=r"mask must be \[C, C\].* got shape \[6\]"):
        metrics.shared_class_mass(Z_T, Y, torch.ones(6))
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        metrics.expected_calibration_error(Z_T, Y, bins=0)
    with pytest.raises(ValueError, match="base must be above 1, got 1"):
        metrics.probability_loyalty(Z_S, Z_T, base=1.0)


def test_truth_divergence_by_hand():
    # softmax (3/4, 1/4) against (1/2, 1/2): (log(2/3) + log 2)/2; against its own prediction nothing; against a sure truth -log 3/4
    z = [[LN3, 0.0]]
    assert metrics.truth_divergence(z, [[0.5, 0.5]]) == pytest.approx((math.log(2 / 3) + math.log(2)) / 2)
    assert metrics.truth_divergence(z, [[0.75, 0.25]]) == pytest.approx(0, abs=1e-12)
    assert metrics.truth_divergence(z, [[1.0, 0.0]]) == pytest.approx(-math.log(0.75))
    with pytest.raises(ValueError, match="sum to one"):
        metrics.truth_divergence(z, [[0.5, 0.4]])
    with pytest.raises(ValueError, match="one shape"):
        metrics.truth_divergence(z, [[0.5, 0.4, 0.1]])
