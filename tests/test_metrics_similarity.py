"""Similarity of representations against loops over samples, invariances and statistics."""

import math
from itertools import permutations

import pytest
import torch

from kd_lib.metrics import linear_cka, linear_cka_unbiased, within_between_scatter


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    x = features(n, 5)
    return x + 2.0, x @ features(5, 4, seed=1) + features(n, 4, seed=2)


def rotation(d: int) -> torch.Tensor:
    return torch.linalg.qr(features(d, d, seed=7)).Q


def gram(x: torch.Tensor) -> list[list[float]]:
    rows = x.tolist()
    return [[sum(a * b for a, b in zip(u, v, strict=True)) for v in rows] for u in rows]


def slow_hsic(k_x: list[list[float]], k_y: list[list[float]]) -> float:
    """Sum of the products of the doubly centred Gram matrices."""
    n = len(k_x)

    def centred(m):
        means = [sum(row) / n for row in m]
        total = sum(means) / n
        return [[m[i][j] - means[i] - means[j] + total for j in range(n)] for i in range(n)]

    k_x, k_y = centred(k_x), centred(k_y)
    return sum(k_x[i][j] * k_y[i][j] for i in range(n) for j in range(n))


def slow_hsic_1(k_x: list[list[float]], k_y: list[list[float]]) -> float:
    """The mean over all ordered choices of four different samples: what HSIC_1's closed form stands for."""
    terms = [
        k_x[i][j] * k_y[i][j] + k_x[i][j] * k_y[q][r] - 2 * k_x[i][j] * k_y[i][q]
        for i, j, q, r in permutations(range(len(k_x)), 4)
    ]
    return sum(terms) / len(terms)


def slow_cka(hsic, x: torch.Tensor, y: torch.Tensor) -> float:
    k_x, k_y = gram(x), gram(y)
    return hsic(k_x, k_y) / math.sqrt(hsic(k_x, k_x) * hsic(k_y, k_y))


def test_linear_cka_by_hand():
    # x = (-1, 1, 0) and y = (-1, 0, 1): y'x = 1, x'x = y'y = 2, so 1/(2 * 2). A shift by 5 is centred away.
    x, y = torch.tensor([[-1.0], [1.0], [0.0]]), torch.tensor([[4.0], [5.0], [6.0]])
    assert linear_cka(x, y) == pytest.approx(0.25)


def test_linear_cka_equals_the_gram_matrix_form():
    x, y = related()
    assert linear_cka(x, y) == pytest.approx(slow_cka(slow_hsic, x, y), rel=1e-10)


def test_unbiased_cka_equals_the_mean_over_four_samples():
    x, y = related(7)
    assert linear_cka_unbiased(x, y) == pytest.approx(slow_cka(slow_hsic_1, x, y), rel=1e-10)


def test_unbiased_cka_sums_over_batches_before_it_divides():
    x, y = related(17)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(3))
    batches = [order[:6], order[6:12], order[12:]]  # 17 // 5 = 3 batches of 6, 6 and 5
    sums = [sum(slow_hsic_1(gram(a[rows]), gram(b[rows])) for rows in batches) for a, b in ((x, y), (x, x), (y, y))]
    value = linear_cka_unbiased(x, y, batch_size=5, seed=3)
    assert value == pytest.approx(sums[0] / math.sqrt(sums[1] * sums[2]), rel=1e-10)


@pytest.mark.parametrize("cka", [linear_cka, linear_cka_unbiased])
def test_cka_ignores_rotation_size_and_shift_but_not_single_features(cka):
    x, y = related()
    value = cka(x, y)
    assert cka(x, x) == pytest.approx(1.0)
    assert cka(y, x) == pytest.approx(value)
    assert cka(x @ rotation(5), y @ rotation(4)) == pytest.approx(value)
    assert cka(0.01 * x + 3.0, 100.0 * y - 7.0) == pytest.approx(value)
    stretched = x * torch.tensor([10.0, 1.0, 1.0, 1.0, 1.0])
    assert abs(cka(stretched, y) - value) > 0.05


def test_only_the_unbiased_form_finds_nothing_where_nothing_is():
    draws = [(features(20, 10, seed=2 * i), features(20, 10, seed=2 * i + 1)) for i in range(200)]
    biased = [linear_cka(x, y) for x, y in draws]
    unbiased = [linear_cka_unbiased(x, y) for x, y in draws]
    assert min(biased) > 0.2
    assert sum(unbiased) / 200 == pytest.approx(0.0, abs=0.03)
    assert min(unbiased) < 0 < max(unbiased)


def test_batches_of_sorted_data_are_mixed():
    # Ten classes of 40, in order, far apart and alike on both sides: within a class nothing is shared.
    centres = features(10, 8).repeat_interleave(40, dim=0) * 5
    x, y = centres + features(400, 8, seed=1), centres + features(400, 8, seed=2)
    whole = linear_cka_unbiased(x, y, batch_size=400)
    assert whole > 0.9
    assert linear_cka_unbiased(x, y, batch_size=40) == pytest.approx(whole, abs=0.02)
    assert linear_cka_unbiased(x, y, batch_size=40, seed=1) == pytest.approx(whole, abs=0.02)


def test_cka_errors():
    x, y = related()
    for cka in (linear_cka, linear_cka_unbiased):
        with pytest.raises(ValueError, match="same samples, got 40 and 39"):
            cka(x, y[:39])
        with pytest.raises(ValueError, match="y is the same for all 40 samples"):
            cka(x, torch.full((40, 3), 0.1))
    for x_flat in (torch.eye(6), torch.eye(6)[:, :1]):  # equal distances throughout; one sample against the rest
        with pytest.raises(ValueError, match="x has no structure among its 6 samples"):
            linear_cka_unbiased(x_flat, y[:6])
    with pytest.raises(ValueError, match="at least 4 samples, got batch_size 3 for 40"):
        linear_cka_unbiased(x, y, batch_size=3)
    with pytest.raises(ValueError, match="at least 4 samples, got batch_size 256 for 3"):
        linear_cka_unbiased(x[:3], y[:3])


def test_scatter_by_hand():
    # Centres 1 and 11 around 6: within 4 * 1, between 4 * 25. Labels need not be dense.
    h = torch.tensor([[0.0, 5.0], [10.0, 5.0], [2.0, 5.0], [12.0, 5.0]])
    assert within_between_scatter(h, [3, 90, 3, 90]) == pytest.approx(4 / 100)


def test_scatter_equals_the_loop_and_ignores_rotation_size_and_shift():
    h, y = features(60, 5), torch.cat([torch.zeros(10), torch.ones(20), torch.full((30,), 2.0)]).long()
    h = h + y[:, None]
    within = between = 0.0
    for c in range(3):
        rows = h[y == c]
        within += sum((row - rows.mean(0)).square().sum().item() for row in rows)
        between += len(rows) * (rows.mean(0) - h.mean(0)).square().sum().item()
    assert within_between_scatter(h, y) == pytest.approx(within / between)
    assert within_between_scatter(3 * h @ rotation(5) + 1, y) == pytest.approx(within / between)
    with pytest.raises(ValueError, match="centres of the 1 classes coincide"):
        within_between_scatter(h, torch.zeros(60))
