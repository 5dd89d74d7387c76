"""The losses of CRD and SSKD against slow versions written from their formulas."""

import math

import pytest
import torch
from torch import Tensor

from kd_lib import losses

D = torch.float64


def cosines(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=D) * 2 - 1


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def slow_softmax(row: list[float], tau: float) -> list[float]:
    powers = [math.exp(value / tau) for value in row]
    return [power / sum(powers) for power in powers]


def slow_crd(positive: Tensor, negative: Tensor, z: float, n_train: int, tau: float) -> float:
    total, n = 0.0, negative.shape[1]

    def h(s: float) -> float:
        score = math.exp(s / tau) / z
        return score / (score + n / n_train)

    for own, others in zip(positive.tolist(), negative.tolist(), strict=True):
        total -= math.log(h(own)) + sum(math.log(1 - h(s)) for s in others)
    return total / len(positive)


@pytest.mark.parametrize(
    ("b", "n", "n_train", "z", "tau"), [(1, 1, 2, 0.5, 1.0), (5, 7, 50, 30.0, 0.3), (3, 40, 20, 900.0, 0.2)]
)
def test_crd_is_the_printed_sum(b: int, n: int, n_train: int, z: float, tau: float):
    positive, negative = cosines(b), cosines(b, n, seed=1)
    value = losses.crd(positive, negative, z=z, n_train=n_train, tau=tau)
    assert value.item() == pytest.approx(slow_crd(positive, negative, z, n_train, tau), rel=1e-12)
    as_tensor = losses.crd(positive, negative, z=torch.tensor(z, dtype=D), n_train=n_train, tau=tau)
    assert as_tensor == value


def test_crd_by_hand():
    # e^0 / 1 = 1 against N / M = 1: h is 1/2 for both, so the loss is 2 log 2
    zero = torch.zeros(1, dtype=D)
    assert losses.crd(zero, zero[:, None], z=1.0, n_train=1).item() == pytest.approx(2 * math.log(2), rel=1e-14)
    # h = 3 / (3 + 1) for the positive and (1/3) / (1/3 + 1) for the negative: -log 3/4 - log 3/4
    third = torch.tensor([math.log(3)], dtype=D)
    value = losses.crd(third, -third[:, None], z=1.0, n_train=1, tau=1.0)
    assert value.item() == pytest.approx(-2 * math.log(0.75), rel=1e-14)


def test_crd_starts_at_chance_with_its_own_constant():
    n, n_train = 64, 1000
    flat = torch.zeros(4, n, dtype=D)
    z = losses.crd_constant(flat, n_train=n_train)
    assert z.item() == pytest.approx(n_train)
    chance = math.log(1 + n) + n * math.log(1 + 1 / n)  # h = 1 / (1 + N) everywhere
    assert losses.crd(flat[:, 0], flat, z=z, n_train=n_train).item() == pytest.approx(chance, rel=1e-12)


def test_crd_constant_is_the_mean_times_the_set():
    negative = cosines(3, 5)
    slow = 70 * sum(math.exp(s / 0.4) for row in negative.tolist() for s in row) / 15
    assert losses.crd_constant(negative, n_train=70, tau=0.4).item() == pytest.approx(slow, rel=1e-12)
    assert not losses.crd_constant(negative.requires_grad_(), n_train=70).requires_grad


def test_crd_gradient_and_extremes():
    positive, negative = cosines(3).requires_grad_(), cosines(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, n: losses.crd(p, n, z=9.0, n_train=20, tau=0.3), (positive, negative))
    own, others = torch.tensor([-1.0], requires_grad=True), torch.ones(1, 64, requires_grad=True)
    worst = losses.crd(own, others, z=1e-3, n_train=50000, tau=0.02)
    worst.backward()
    assert worst.isfinite() and own.grad.isfinite().all() and others.grad.isfinite().all()
    assert own.grad.item() == pytest.approx(-1 / 0.02, rel=1e-4)


@pytest.mark.parametrize(
    ("positive", "negative", "settings", "message"),
    [
        ((3,), (4, 5), {}, r"positive must be \[4\], got \[3\]"),
        ((4, 1), (4, 5), {}, r"positive must be \[4\]"),
        ((4,), (4,), {}, r"negative must be \[B, N\]"),
        ((4,), (4, 0), {}, "at least 1"),
        ((4,), (4, 5), {"tau": 0.0}, "tau must be a positive.*got 0.0"),
        ((4,), (4, 5), {"z": -1.0}, "z must be a positive.*got -1.0"),
    ],
)
def test_crd_refuses(positive: tuple, negative: tuple, settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        losses.crd(torch.zeros(positive), torch.zeros(negative), **{"z": 1.0, "n_train": 9, **settings})


# SSKD


def slow_selective(z_s: Tensor, z_t: Tensor, truth: list[int], tau: float, keep: float) -> float:
    """Sort by the rank of the truth, keep all correct and floor(keep n) of the n wrong; mean KL times tau squared."""
    ranks = []
    for row, own in zip(z_t.tolist(), truth, strict=True):
        ranks.append(sorted(row, reverse=True).index(row[own]))
    order = sorted(range(len(ranks)), key=lambda i: ranks[i])
    n_wrong = sum(rank > 0 for rank in ranks)
    kept = order[: len(ranks) - n_wrong + math.floor(keep * n_wrong)]
    total = 0.0
    for i in kept:
        p_t, p_s = slow_softmax(z_t[i].tolist(), tau), slow_softmax(z_s[i].tolist(), tau)
        total += sum(t * (math.log(t) - math.log(s)) for t, s in zip(p_t, p_s, strict=True))
    return tau**2 * total / len(kept)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize(("m", "c"), [(12, 4), (30, 10)])
def test_transformed_kd_is_the_slow_one(m: int, c: int, keep: float):
    z_s, z_t = 3 * normal(m, c), 3 * normal(m, c, seed=1)
    y = torch.randint(0, c, (m,), generator=torch.Generator().manual_seed(2))
    value = losses.transformed_kd(z_s, z_t, y, tau=4.0, keep_wrong=keep)
    assert value.item() == pytest.approx(slow_selective(z_s, z_t, y.tolist(), 4.0, keep), rel=1e-10)


def test_transformed_kd_with_all_kept_is_kd():
    z_s, z_t, y = normal(6, 5), normal(6, 5, seed=1), torch.arange(6) % 5
    assert losses.transformed_kd(z_s, z_t, y, tau=2.0) == pytest.approx(losses.kd(z_s, z_t, tau=2.0).item(), rel=1e-12)
    assert losses.transformed_kd(z_t, z_t, y, keep_wrong=0.5).item() == pytest.approx(0, abs=1e-14)


def test_nothing_kept_is_zero_with_a_zero_gradient():
    z_s = normal(4, 3).requires_grad_()
    z_t = torch.tensor([[0.0, 1.0, 2.0]], dtype=D).repeat(4, 1)
    value = losses.transformed_kd(z_s, z_t, torch.zeros(4, dtype=torch.int64), keep_wrong=0.0)
    value.backward()
    assert value == 0 and (z_s.grad == 0).all()


def test_least_wrong_by_hand():
    level = torch.tensor([2, 0, 1, 5, 0, 2])  # 4 wrong, whose order is positions 2, 0, 5, 3
    expected = {
        0.0: [1, 4],
        0.24: [1, 4],
        0.25: [1, 2, 4],
        0.5: [0, 1, 2, 4],
        0.75: [0, 1, 2, 4, 5],
        1.0: list(range(6)),
    }
    for share, kept in expected.items():
        assert losses.least_wrong(level, share=share).nonzero().flatten().tolist() == kept
    for share in (-0.1, 1.5):
        with pytest.raises(ValueError, match=rf"in \[0, 1\], got {share}"):
            losses.least_wrong(level, share=share)


def test_error_level_by_hand():
    scores = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [2.0, 2.0, 2.0]])
    assert losses.error_level(scores, torch.tensor([1, 2, 0, 1])).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(("v", "b", "d"), [(1, 2, 3), (3, 5, 8)])
def test_similarity_and_its_losses_are_the_slow_ones(v: int, b: int, d: int):
    views, h, other_views, other = (
        normal(v * b, d),
        normal(b, d, seed=1),
        normal(v * b, d, seed=2),
        normal(b, d, seed=3),
    )
    a = losses.view_similarity(views, h)
    for i, view in enumerate(views.tolist()):
        for j, original in enumerate(h.tolist()):
            product = sum(x * y for x, y in zip(view, original, strict=True))
            assert a[i, j].item() == pytest.approx(product / math.hypot(*view) / math.hypot(*original), rel=1e-10)
    truth = [i % b for i in range(v * b)]  # row v B + j is a view of image j
    slow = -sum(math.log(slow_softmax(a[i].tolist(), 0.7)[truth[i]]) for i in range(v * b)) / (v * b)
    assert losses.contrastive_prediction(a, tau=0.7).item() == pytest.approx(slow, rel=1e-10)
    a_t = losses.view_similarity(other_views, other)
    value = losses.sskd(a, a_t, tau=0.5, keep_wrong=0.75)
    assert value.item() == pytest.approx(slow_selective(a, a_t, truth, 0.5, 0.75), rel=1e-10)


def test_a_perfect_answer_among_64_unrelated_images_costs_what_the_docstring_says():
    value = losses.contrastive_prediction(losses.view_similarity(torch.eye(64), torch.eye(64)))
    assert value.item() == pytest.approx(math.log(math.e + 63) - 1, rel=1e-6)
    assert round(value.item(), 1) == 3.2


def test_sskd_gradients():
    views, h, a_t = normal(6, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_(), cosines(6, 3, seed=2)
    assert torch.autograd.gradcheck(
        lambda v, x: losses.contrastive_prediction(losses.view_similarity(v, x)), (views, h)
    )
    assert torch.autograd.gradcheck(lambda v, x: losses.sskd(losses.view_similarity(v, x), a_t), (views, h))
    y = torch.tensor([0, 2, 1, 0, 1, 2])
    z_s, z_t = normal(6, 3, seed=4).requires_grad_(), normal(6, 3, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: losses.transformed_kd(s, t, y, keep_wrong=0.5), (z_s, z_t))


def test_sskd_losses_refuse():
    with pytest.raises(ValueError, match=r"\[V B, D\] of originals \[B, D\], got \[5, 3\] of \[2, 3\]"):
        losses.view_similarity(torch.zeros(5, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"got \[4, 3\] of \[2, 5\]"):
        losses.view_similarity(torch.zeros(4, 3), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="tau must be a positive, finite number, got 0"):
        losses.contrastive_prediction(torch.zeros(4, 2), tau=0)
    with pytest.raises(ValueError, match="tau_s must be a positive"):
        losses.sskd(torch.zeros(4, 2), torch.zeros(4, 2), tau=-1.0)
