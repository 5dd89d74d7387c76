"""TCKD, NCKD, DKD and DIST against slow loops, hand-worked values, identities and finite differences."""

import math

import pytest
import torch
from slow import logits, pair, slow_kl, slow_softmax
from torch.autograd import gradcheck

from kd_lib.losses import dist, dkd, kd, nckd, tckd

Y = torch.tensor([0, 6, 3, 2, 6])


def slow_parts(z_s, z_t, y, tau: float) -> tuple[float, float]:
    """(TCKD, NCKD) from their definitions: probabilities first, then the two divergences."""
    target = others = 0.0
    for s, t, label in zip(z_s.tolist(), z_t.tolist(), y.tolist(), strict=True):
        p_s, p_t = slow_softmax(s, tau), slow_softmax(t, tau)
        target += slow_kl([p_t[label], 1 - p_t[label]], [p_s[label], 1 - p_s[label]])
        q_s, q_t = ([p[c] / (1 - p[label]) for c in range(len(p)) if c != label] for p in (p_s, p_t))
        others += slow_kl(q_t, q_s)
    return tau**2 * target / len(y), tau**2 * others / len(y)


def slow_pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return covariance / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


def slow_dist(z_s, z_t, tau: float) -> float:
    p_s, p_t = ([slow_softmax(row, tau) for row in z.tolist()] for z in (z_s, z_t))
    columns_s, columns_t = (list(map(list, zip(*p, strict=True))) for p in (p_s, p_t))
    inter, intra = (1 - sum(map(slow_pearson, a, b)) / len(a) for a, b in ((p_s, p_t), (columns_s, columns_t)))
    return tau**2 * (inter + intra)


# dkd


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize(("b", "c"), [(5, 7), (5, 20)])
def test_both_parts_equal_the_loop(tau, b, c):
    z_s, z_t = pair(b, c)
    target, others = slow_parts(z_s, z_t, Y, tau)
    assert tckd(z_s, z_t, Y, tau=tau).item() == pytest.approx(target, rel=1e-12)
    assert nckd(z_s, z_t, Y, tau=tau).item() == pytest.approx(others, rel=1e-12)
    value = dkd(z_s, z_t, Y, tau=tau, target_weight=0.5, nontarget_weight=6.0)
    assert value.item() == pytest.approx(0.5 * target + 6 * others, rel=1e-12)


def test_both_parts_by_hand():
    # At tau 1 the teacher predicts (1/2, 3/8, 1/8), the student (1/5, 2/5, 2/5); the right class is the first.
    z_t = torch.tensor([[0.5, 0.375, 0.125]], dtype=torch.float64).log()
    z_s = torch.tensor([[0.2, 0.4, 0.4]], dtype=torch.float64).log() + 7
    y = torch.tensor([0])
    target = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    others = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert tckd(z_s, z_t, y, tau=1.0).item() == pytest.approx(target)
    assert nckd(z_s, z_t, y, tau=1.0).item() == pytest.approx(others)
    assert dkd(z_s, z_t, y, tau=1.0).item() == pytest.approx(target + 8 * others)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_kd_is_tckd_plus_the_teachers_doubt_times_nckd_in_each_sample(tau):
    z_s, z_t = pair()
    for s, t, y in zip(z_s.split(1), z_t.split(1), Y.split(1), strict=True):
        doubt = 1 - (t / tau).softmax(1)[0, y.item()].item()
        expected = tckd(s, t, y, tau=tau).item() + doubt * nckd(s, t, y, tau=tau).item()
        assert kd(s, t, tau=tau).item() == pytest.approx(expected, rel=1e-10)


def test_each_part_looks_at_its_own_classes_only():
    z_s, z_t = pair(grad=True)
    mine = torch.nn.functional.one_hot(Y, 7).bool()
    (of_nckd,) = torch.autograd.grad(nckd(z_s, z_t, Y), z_s)
    assert of_nckd[mine].abs().max().item() == 0.0 and of_nckd[~mine].abs().max().item() > 1e-2
    shuffled = z_s.detach().clone()
    for row, label in zip(shuffled, Y.tolist(), strict=True):
        others = [c for c in range(7) if c != label]
        row[others] = row[others].flip(0)
    assert tckd(shuffled, z_t, Y).item() == pytest.approx(tckd(z_s, z_t, Y).item(), rel=1e-12)
    assert abs(nckd(shuffled, z_t, Y).item() - nckd(z_s, z_t, Y).item()) > 0.1


def test_with_two_classes_there_is_nothing_beside_the_target():
    z_s, z_t = pair(5, 2)
    y = torch.tensor([0, 1, 1, 0, 1])
    assert tckd(z_s, z_t, y).item() == pytest.approx(kd(z_s, z_t).item(), rel=1e-12)
    assert nckd(z_s, z_t, y).item() == 0.0


@pytest.mark.parametrize("part", [tckd, nckd, dkd])
def test_parts_are_averaged_over_the_batch_and_ignore_shifts(part):
    z_s, z_t = pair()
    single = torch.stack([part(z_s[i : i + 1], z_t[i : i + 1], Y[i : i + 1]) for i in range(5)])
    assert part(z_s, z_t, Y).item() == pytest.approx(single.mean().item(), rel=1e-12)
    shift = logits(5, 1, seed=9, spread=50.0)
    assert part(z_s + shift, z_t - shift, Y).item() == pytest.approx(part(z_s, z_t, Y).item(), rel=1e-11)


@pytest.mark.parametrize("part", [tckd, nckd, dkd])
def test_gradients_of_both_parts_by_finite_differences(part):
    y = torch.tensor([0, 3, 1])
    assert gradcheck(lambda z_s, z_t: part(z_s, z_t, y), pair(3, 4, grad=True))


@pytest.mark.parametrize("part", [tckd, nckd])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sure_networks_give_finite_losses_and_gradients(part, dtype):
    """1 - p_y underflows to zero here, so its logarithm may not be taken from it."""
    z_s, z_t = (1e4 * torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, 1.0]]).roll(turn, 1) for turn in (0, 1))
    z_s, z_t = (z.to(dtype).requires_grad_() for z in (z_s, z_t))
    for y in (torch.tensor([0, 1]), torch.tensor([1, 0])):
        value = part(z_s, z_t, y)
        value.backward()
        assert value.isfinite() and value >= 0
    assert z_s.grad.isfinite().all() and z_t.grad.isfinite().all()
    assert tckd(z_s, z_t, torch.tensor([0, 1])).item() > 1


@pytest.mark.parametrize("part", [tckd, nckd, dkd])
def test_a_detached_teacher_gets_no_gradient(part):
    z_s, z_t = pair(grad=True)
    part(z_s, z_t.detach(), Y).backward()
    assert z_t.grad is None and z_s.grad.abs().max().item() > 1e-3


@pytest.mark.parametrize("part", [tckd, nckd, dkd])
def test_wrong_shapes_are_named(part):
    with pytest.raises(ValueError, match="of one shape"):
        part(logits(5, 7), logits(5, 6), Y)
    with pytest.raises(ValueError, match=r"labels must be \[5\].*got shape \[5, 1\]"):
        part(*pair(), Y[:, None])
    with pytest.raises(ValueError, match=r"labels must be \[5\].*got shape \[4\]"):
        part(*pair(), Y[:4])
    with pytest.raises(ValueError, match="positive"):
        part(*pair(), Y, tau=-1.0)


# dist


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(5, 7), (2, 20)], ids=str)
def test_dist_equals_the_loop(tau, shape):
    z_s, z_t = pair(*shape)
    assert dist(z_s, z_t, tau=tau).item() == pytest.approx(slow_dist(z_s, z_t, tau), rel=1e-10)


def test_dist_by_hand():
    # The student predicts (1/2, 1/4, 1/4) and (1/4, 1/4, 1/2), the teacher the same samples exchanged.
    rows = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], dtype=torch.float64)
    # Between samples: (2, -1, -1) against (-1, -1, 2) correlates -3/6. Between classes: -1, none (the middle one never
    # changes), -1.
    expected = (1 + 1 / 2) + (1 + 2 / 3)
    assert dist(rows.log(), rows.flip(0).log(), tau=1.0).item() == pytest.approx(expected)


def test_dist_asks_for_relations_only():
    """Any growing linear map of the teacher's probabilities is as good as the probabilities themselves."""
    _, z_t = pair()
    p_t = z_t.softmax(1)
    assert dist(z_t + 3.0, z_t, tau=1.0).item() == pytest.approx(0.0, abs=1e-12)
    blurred = (0.3 * p_t + 0.7 / 7).log()
    assert dist(blurred, z_t, tau=1.0).item() == pytest.approx(0.0, abs=1e-12)
    assert kd(blurred, z_t, tau=1.0).item() > 0.1


def test_dist_relates_the_samples_of_a_batch():
    z_s, z_t = pair(6, 7)
    halves = [dist(z_s[part], z_t[part]).item() for part in (slice(0, 3), slice(3, 6))]
    assert abs(sum(halves) / 2 - dist(z_s, z_t).item()) > 0.1


def test_dist_gradients_by_finite_differences():
    assert gradcheck(dist, pair(3, 4, grad=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_cost_dist_no_more_than_their_own_rounding(dtype):
    z_s, z_t = (z.to(dtype) for z in pair(8, 100))
    assert dist(z_s, z_t).item() == pytest.approx(dist(z_s.double(), z_t.double()).item(), rel=1e-5)


def test_dist_of_what_never_varies_is_finite():
    """A single sample has no spread within a class, constant logits none within a sample."""
    z_s, z_t = (z.requires_grad_() for z in (torch.full((1, 4), 2.0), logits(1, 4, dtype=torch.float32)))
    value = dist(z_s, z_t, tau=2.0)
    value.backward()
    assert value.item() == pytest.approx(4 * (1 + 1))
    assert z_s.grad.isfinite().all() and z_t.grad.isfinite().all()
    sure = 1e4 * torch.eye(4)[:3]
    sure.requires_grad_()  # the fourth class is never predicted
    value = dist(sure, sure.detach().roll(1, 0), tau=1.0)
    value.backward()
    assert value.isfinite() and sure.grad.isfinite().all()


def test_dist_refuses_what_soft_kl_refuses():
    with pytest.raises(ValueError, match="of one shape"):
        dist(logits(5, 7), logits(5, 6))
    with pytest.raises(ValueError, match="tau must be a positive"):
        dist(*pair(), tau=0.0)
