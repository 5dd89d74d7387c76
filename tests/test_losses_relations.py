"""Losses on relations against hand-worked values, slow loops, identities and finite differences."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from kd_lib.losses import cc, pkt, rkd, rkd_angle, rkd_distance, sp


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pair(b: int = 5, d_s: int = 3, d_t: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    return random(b, d_s, seed=1).requires_grad_(), random(b, d_t, seed=2).requires_grad_()


def as_maps(loss):
    """sp, of embeddings: each is a map of one pixel."""
    return lambda h_s, h_t: loss(h_s[:, :, None, None], h_t[:, :, None, None])


ON_EMBEDDINGS = {"cc": cc, "rkd_distance": rkd_distance, "rkd_angle": rkd_angle, "rkd": rkd, "pkt": pkt}
ALL = {"sp": as_maps(sp), **ON_EMBEDDINGS}
every = pytest.mark.parametrize("loss", ALL.values(), ids=ALL)


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def length(a: list[float]) -> float:
    return math.sqrt(dot(a, a))


def minus(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def huber(x: float) -> float:
    return x * x / 2 if abs(x) <= 1 else abs(x) - 0.5


def rotation(d: int) -> torch.Tensor:
    return torch.linalg.qr(random(d, d, seed=9)).Q


# sp


def slow_sp(f_s: torch.Tensor, f_t: torch.Tensor) -> float:
    grams = []
    for f in (f_s, f_t):
        rows = [sample.flatten().tolist() for sample in f]
        gram = [[dot(a, b) for b in rows] for a in rows]
        grams.append([[v / length(row) for v in row] for row in gram])
    b = len(f_s)
    return sum((grams[0][i][j] - grams[1][i][j]) ** 2 for i in range(b) for j in range(b)) / b**2


def test_sp_by_hand():
    # Student's samples orthogonal: G = I. Teacher's equal: G full of 1/sqrt 2. Squares 2 (1 - 1/sqrt 2)^2 + 2 / 2, over 4.
    f_s, f_t = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 5.0]]]]), torch.tensor([[[[2.0]]], [[[2.0]]]])
    assert sp(f_s, f_t).item() == pytest.approx(1 - 1 / math.sqrt(2))


@pytest.mark.parametrize("shapes", [((4, 3, 2, 5), (4, 6, 1, 2)), ((7, 1, 3, 3), (7, 2, 6, 6))])
def test_sp_equals_the_loop_for_maps_of_any_two_shapes(shapes):
    f_s, f_t = (random(*shape, seed=i) for i, shape in enumerate(shapes))
    assert sp(f_s, f_t).item() == pytest.approx(slow_sp(f_s, f_t), rel=1e-12)


def test_sp_is_at_most_four_over_the_batch():
    f = random(6, 2, 2, 2)
    assert 0 < sp(f, random(6, 2, 2, 2, seed=1)).item() < 4 / 6
    assert sp(3 * f, f.flip(1)).item() == pytest.approx(0, abs=1e-20)  # scale and order of channels do not count


def test_sp_of_a_sample_without_activations_is_finite():
    f_s = random(3, 2, 2, 2, dtype=torch.float32)
    f_s[1] = 0
    f_s.requires_grad_()
    sp(f_s, random(3, 2, 2, 2, seed=1, dtype=torch.float32)).backward()
    assert f_s.grad.isfinite().all()
    assert f_s.grad.abs().max() < 10


def test_sp_needs_batches_of_one_size():
    with pytest.raises(ValueError, match="sp needs batches of one size, got 2 and 3"):
        sp(random(2, 1, 2, 2), random(3, 1, 2, 2))


# cc


def slow_cc(h_s: torch.Tensor, h_t: torch.Tensor, gamma: float, order: int) -> float:
    kernels = []
    for h in (h_s, h_t):
        rows = [[v / length(row) for v in row] for row in h.tolist()]
        kernel = [[0.0] * len(rows) for _ in rows]
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                for p in range(order + 1):
                    kernel[i][j] += math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * dot(a, b) ** p
        kernels.append(kernel)
    b = len(h_s)
    return sum((kernels[0][i][j] - kernels[1][i][j]) ** 2 for i in range(b) for j in range(b)) / b**2


def test_cc_by_hand():
    # Student orthogonal, teacher equal: off the diagonal e^-0.8 against e^-0.8 (1 + 0.8 + 0.32), two entries of four.
    h_s, h_t = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[2.0, 2.0], [1.0, 1.0]])
    assert cc(h_s, h_t).item() == pytest.approx(2 * (math.exp(-0.8) * 1.12) ** 2 / 4)


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (1.5, 5), (0.1, 1)])
def test_cc_equals_the_loop(gamma, order):
    h_s, h_t = pair()
    expected = slow_cc(h_s.detach(), h_t.detach(), gamma, order)
    assert cc(h_s, h_t, gamma=gamma, order=order).item() == pytest.approx(expected, rel=1e-12)


def test_cc_is_the_gaussian_kernel_when_the_series_is_long():
    h_s, h_t = pair()
    kernels = []
    for h in (h_s, h_t):
        u = h / h.norm(dim=1, keepdim=True)
        kernels.append((-0.7 * torch.cdist(u, u).square()).exp())
    expected = (kernels[0] - kernels[1]).square().mean().item()
    assert cc(h_s, h_t, gamma=0.7, order=30).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("wrong", [{"gamma": 0.0}, {"gamma": math.inf}, {"order": 0}])
def test_cc_refuses_settings_that_relate_nothing(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        cc(*pair(), **wrong)


# rkd


def slow_distance(h_s: torch.Tensor, h_t: torch.Tensor) -> float:
    b, scaled = len(h_s), []
    for h in (h_s.tolist(), h_t.tolist()):
        distances = {(i, j): length(minus(h[i], h[j])) for i in range(b) for j in range(b) if i != j}
        mean = sum(distances.values()) / len(distances)
        scaled.append({key: value / mean for key, value in distances.items()})
    return sum(huber(scaled[0][key] - scaled[1][key]) for key in scaled[0]) / b**2


def slow_angle(h_s: torch.Tensor, h_t: torch.Tensor) -> float:
    b, total = len(h_s), 0.0
    for i in range(b):
        for j in range(b):
            for k in range(b):
                if j in (i, k):
                    continue
                cosines = []
                for h in (h_s.tolist(), h_t.tolist()):
                    to_i, to_k = minus(h[i], h[j]), minus(h[k], h[j])
                    cosines.append(dot(to_i, to_k) / length(to_i) / length(to_k))
                total += huber(cosines[0] - cosines[1])
    return total / b**3


def test_rkd_by_hand():
    # Three points on a line at 0, 1, 3: distances 1, 2, 3 of mean 2. An equilateral triangle: all distances equal the mean.
    line = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)
    # |1/2 - 1|, |1 - 1|, |3/2 - 1|: Huber 1/8, 0, 1/8, each twice of nine entries.
    assert rkd_distance(line, triangle).item() == pytest.approx(4 / 8 / 9)
    # Cosines on the line 1, -1, 1 at its three points, 1/2 in the triangle: Huber 1/8, 1, 1/8, each twice of 27 entries.
    assert rkd_angle(line, triangle).item() == pytest.approx(2 * (1 / 8 + 1 + 1 / 8) / 27)
    expected = 25 * 4 / 72 + 50 * 2.5 / 27
    assert rkd(line, triangle).item() == pytest.approx(expected)
    assert rkd(line, triangle, distance_weight=0.0, angle_weight=27.0).item() == pytest.approx(2.5)


@pytest.mark.parametrize(("b", "d_s", "d_t"), [(5, 3, 7), (2, 4, 4), (6, 1, 2)])
def test_rkd_equals_the_loops(b, d_s, d_t):
    h_s, h_t = (h.detach() for h in pair(b, d_s, d_t))
    h_s[0] *= 20  # so that some differences lie beyond 1, in the linear part
    assert rkd_distance(h_s, h_t).item() == pytest.approx(slow_distance(h_s, h_t), rel=1e-12)
    assert rkd_angle(h_s, h_t).item() == pytest.approx(slow_angle(h_s, h_t), rel=1e-12, abs=1e-15)


def test_rkd_ignores_where_the_embeddings_lie_how_they_are_turned_and_their_scale():
    h_s, h_t = pair()
    moved = 7 * h_s @ rotation(3) + random(1, 3, seed=5)
    assert rkd(moved, h_t).item() == pytest.approx(rkd(h_s, h_t).item(), rel=1e-10)
    assert rkd(moved, h_s).item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle, rkd], ids=["distance", "angle", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_embeddings_in_a_batch_have_finite_gradients(loss, dtype):
    h_s, h_t = random(6, 4, seed=1, dtype=dtype), random(6, 5, seed=2, dtype=dtype)
    h_s[3] = h_s[0]
    h_t[4] = h_t[1]
    h_s.requires_grad_(), h_t.requires_grad_()
    loss(h_s, h_t).backward()
    for h in (h_s, h_t):
        assert h.grad.isfinite().all()
        assert 0 < h.grad.abs().max() < 100


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle], ids=["distance", "angle"])
def test_a_batch_of_equal_embeddings_is_finite(loss):
    h_s = torch.ones(4, 3, requires_grad=True)
    value = loss(h_s, random(4, 5, dtype=torch.float32))
    value.backward()
    assert value.isfinite() and value > 0
    assert h_s.grad.abs().max() == 0


# pkt


def slow_pkt(h_s: torch.Tensor, h_t: torch.Tensor) -> float:
    b, probabilities = len(h_s), []
    for h in (h_s.tolist(), h_t.tolist()):
        kernel = [[(dot(x, y) / length(x) / length(y) + 1) / 2 for y in h] for x in h]
        probabilities.append([[value / sum(row) for value in row] for row in kernel])
    p_s, p_t = probabilities
    return sum(p_t[i][j] * math.log(p_t[i][j] / p_s[i][j]) for i in range(b) for j in range(b)) / b**2


def test_pkt_by_hand():
    # Student orthogonal: each row (2/3, 1/3). Teacher equal: (1/2, 1/2). KL of a row log(9/8) / 2; two rows, four entries.
    h_s, h_t = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[2.0, 2.0], [1.0, 1.0]])
    assert pkt(h_s, h_t).item() == pytest.approx(math.log(9 / 8) / 4)


@pytest.mark.parametrize(("b", "d_s", "d_t"), [(5, 3, 7), (2, 4, 4), (9, 2, 2)])
def test_pkt_equals_the_loop_over_all_entries(b, d_s, d_t):
    h_s, h_t = pair(b, d_s, d_t)
    assert pkt(h_s, h_t).item() == pytest.approx(slow_pkt(h_s.detach(), h_t.detach()), rel=1e-11)


def test_pkt_is_a_divergence_from_the_teacher():
    h_s, h_t = pair()
    assert pkt(h_s, h_t) > 0
    assert pkt(h_s, h_t).item() != pytest.approx(pkt(h_t, h_s).item(), rel=1e-3)
    assert pkt(3 * h_s @ rotation(3), h_s).item() == pytest.approx(0, abs=1e-15)


def test_pkt_of_opposite_and_of_empty_embeddings_is_finite():
    h_s, h_t = torch.tensor([[1.0], [-1.0], [2.0]], requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    for value in (pkt(h_s, h_t), pkt(h_t, h_s)):
        value.backward()
        assert value.isfinite()
        assert h_s.grad.isfinite().all() and h_t.grad.isfinite().all()


# all of them


@every
def test_finite_differences_on_both_sides(loss):
    assert gradcheck(loss, pair(4, 3, 5))


@every
def test_the_value_is_not_the_mean_over_halves_of_the_batch(loss):
    h_s, h_t = pair(6, 3, 5)
    halves = (loss(h_s[:3], h_t[:3]) + loss(h_s[3:], h_t[3:])) / 2
    assert loss(h_s, h_t).item() != pytest.approx(halves.item(), rel=1e-2)


@every
def test_the_order_of_the_batch_does_not_count(loss):
    h_s, h_t = pair(6, 3, 5)
    order = torch.randperm(6)
    assert loss(h_s[order], h_t[order]).item() == pytest.approx(loss(h_s, h_t).item(), rel=1e-10)


@every
def test_sixteen_bit_inputs_are_computed_in_float32(loss):
    h_s, h_t = (h.detach().bfloat16() for h in pair())
    value = loss(h_s, h_t)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(h_s.float(), h_t.float()))


@pytest.mark.parametrize("loss", ON_EMBEDDINGS.values(), ids=ON_EMBEDDINGS)
def test_embeddings_that_cannot_be_related(loss):
    for h_s, h_t in ((random(2, 3), random(3, 3)), (random(1, 3), random(1, 3)), (random(2, 3, 1), random(2, 3))):
        with pytest.raises(ValueError, match="embeddings of one B >= 2"):
            loss(h_s, h_t)
