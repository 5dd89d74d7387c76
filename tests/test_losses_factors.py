"""Factor transfer and flow of the solution procedure: against slow sums in float64, by hand, and their invariances."""

import pytest
import torch

from kd_lib import losses


def maps(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def slow_ft(factor_s, factor_t, p):
    total = count = 0
    for a, b in zip(factor_s.flatten(1).tolist(), factor_t.flatten(1).tolist(), strict=True):
        length_a, length_b = sum(x * x for x in a) ** 0.5, sum(x * x for x in b) ** 0.5
        for x, y in zip(a, b, strict=True):
            total, count = total + abs(x / length_a - y / length_b) ** p, count + 1
    return total / count


def slow_matrix(f_a, f_b):
    batch, c_a, height, width = f_a.shape
    g = torch.zeros(batch, c_a, f_b.shape[1], dtype=torch.float64)
    for n in range(batch):
        for i in range(c_a):
            for j in range(f_b.shape[1]):
                for s in range(height):
                    for t in range(width):
                        g[n, i, j] += f_a[n, i, s, t] * f_b[n, j, s, t] / (height * width)
    return g


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 2, 1), (3, 4, 2, 5), (5, 2, 3, 3)])
def test_ft_is_its_formula(shape, p):
    a, b = maps(*shape, seed=0), maps(*shape, seed=1)
    assert losses.ft(a, b, p=p).item() == pytest.approx(slow_ft(a, b, p), rel=1e-12)
    assert torch.autograd.gradcheck(lambda a: losses.ft(a, b, p=p), a.requires_grad_())


def test_ft_by_hand():
    a, b = (
        torch.tensor([[3.0, 4.0], [0.0, 2.0]]).view(2, 2, 1, 1),
        torch.tensor([[1.0, 0.0], [0.0, -5.0]]).view(2, 2, 1, 1),
    )
    # directions (.6, .8) and (1, 0); (0, 1) and (0, -1)
    assert losses.ft(a, b).item() == pytest.approx((0.4 + 0.8 + 0 + 2) / 4)
    assert losses.ft(a, b, p=2).item() == pytest.approx((0.16 + 0.64 + 0 + 4) / 4)


def test_ft_is_the_papers_norm_over_the_size_of_a_factor():
    a, b = maps(1, 4, 3, 3, seed=0), maps(1, 4, 3, 3, seed=1)
    norm = (a / a.norm() - b / b.norm()).norm(p=1)
    assert losses.ft(a, b).item() == pytest.approx(norm.item() / 36, rel=1e-12)


def test_ft_compares_directions_of_single_samples():
    a, b = maps(3, 4, 2, 2, seed=0), maps(3, 4, 2, 2, seed=1)
    scale = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64).view(3, 1, 1, 1)
    assert losses.ft(a * scale, b).item() == pytest.approx(losses.ft(a, b).item(), rel=1e-12)
    assert losses.ft(a * scale, a).item() == pytest.approx(0, abs=1e-15)
    alone = [losses.ft(a[n : n + 1], b[n : n + 1]).item() for n in range(3)]
    assert losses.ft(a, b).item() == pytest.approx(sum(alone) / 3, rel=1e-12)


def test_ft_of_a_silent_factor_is_finite():
    a = torch.zeros(2, 3, 2, 2, requires_grad=True)
    loss = losses.ft(a, maps(2, 3, 2, 2, dtype=torch.float32))
    loss.backward()
    assert loss.isfinite() and a.grad.isfinite().all()


def test_ft_raises():
    with pytest.raises(ValueError, match=r"student \[2, 3, 4, 4\] and teacher \[2, 3, 5, 4\]"):
        losses.ft(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 5, 4))
    with pytest.raises(ValueError, match="p must be at least 1, got 0"):
        losses.ft(torch.zeros(2, 3), torch.zeros(2, 3), p=0)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 2, 5), (3, 2, 3, 3)])
def test_fsp_matrix_is_its_formula(shape):
    batch, _, *size = shape
    f_a, f_b = maps(*shape, seed=0), maps(batch, 4, *size, seed=1)
    torch.testing.assert_close(losses.fsp_matrix(f_a, f_b), slow_matrix(f_a, f_b), rtol=1e-12, atol=1e-14)


def test_fsp_matrix_by_hand():
    f_a = torch.tensor([[[[1.0, 2.0]], [[0.0, -1.0]]]])  # channels (1, 2) and (0, -1)
    f_b = torch.tensor([[[[3.0, 1.0]]]])
    assert losses.fsp_matrix(f_a, f_b).tolist() == [[[2.5], [-0.5]]]


@pytest.mark.parametrize("larger, smaller", [((4, 6), (2, 3)), ((3, 5), (2, 3)), ((4, 2), (2, 4))])
def test_fsp_matrix_pools_the_larger_map_by_its_maximum(larger, smaller):
    f_a, f_b = maps(2, 3, *larger, seed=0), maps(2, 2, *smaller, seed=1)
    size = tuple(map(min, larger, smaller))

    def pooled(f):
        out = torch.empty(*f.shape[:2], *size, dtype=f.dtype)
        for row in range(size[0]):
            for column in range(size[1]):
                top, left = row * f.shape[2] // size[0], column * f.shape[3] // size[1]
                bottom, right = -(-(row + 1) * f.shape[2] // size[0]), -(-(column + 1) * f.shape[3] // size[1])
                out[:, :, row, column] = f[:, :, top:bottom, left:right].amax((2, 3))
        return out

    expected = slow_matrix(pooled(f_a), pooled(f_b))
    torch.testing.assert_close(losses.fsp_matrix(f_a, f_b), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(losses.fsp_matrix(f_b, f_a), expected.mT, rtol=1e-12, atol=1e-14)


def stack(seed, sizes=((4, 6), (2, 3), (2, 2)), batch=3):
    return [maps(batch, c, *size, seed=seed + c) for c, size in zip((2, 3, 4), sizes, strict=True)]


def test_fsp_averages_entries_and_the_batch_and_sums_stages():
    maps_s, maps_t = stack(0), stack(10, sizes=((5, 5), (4, 4), (2, 3)))
    expected = 0.0
    for i in range(2):
        g_s, g_t = (losses.fsp_matrix(own[i], own[i + 1]) for own in (maps_s, maps_t))
        squares = [(x - y) ** 2 for x, y in zip(g_s.flatten().tolist(), g_t.flatten().tolist(), strict=True)]
        expected += sum(squares) / (3 * (2 * 3, 3 * 4)[i])
    assert losses.fsp(maps_s, maps_t).item() == pytest.approx(expected, rel=1e-12)
    alone = [losses.fsp([f[n : n + 1] for f in maps_s], [f[n : n + 1] for f in maps_t]).item() for n in range(3)]
    assert losses.fsp(maps_s, maps_t).item() == pytest.approx(sum(alone) / 3, rel=1e-12)


def test_fsp_ignores_where_things_are_and_vanishes_for_equal_networks():
    maps_s, maps_t = stack(0, sizes=((2, 3),) * 3), stack(10)
    assert losses.fsp(maps_s, maps_s) == 0
    turned = [f.flip(2, 3) for f in maps_s]  # all maps alike
    assert losses.fsp(turned, maps_t).item() == pytest.approx(losses.fsp(maps_s, maps_t).item(), rel=1e-12)


def test_fsp_has_the_gradient_of_its_value():
    maps_t, (first, *others) = stack(10, batch=2), stack(0, batch=2)
    assert torch.autograd.gradcheck(lambda f: losses.fsp([f, *others], maps_t), first.requires_grad_())


def test_half_precision_is_widened():
    a, b = maps(2, 8, 8, 8, seed=0).bfloat16(), maps(2, 8, 8, 8, seed=1).bfloat16()
    assert losses.ft(a, b).dtype == torch.float32 and losses.ft(a, b) == losses.ft(a.float(), b.float())
    narrow, wide = losses.fsp([a, b], [b, a]), losses.fsp([a.float(), b.float()], [b.float(), a.float()])
    assert narrow.dtype == torch.float32 and narrow == wide


def test_fsp_raises():
    f = torch.zeros(2, 3, 4, 4)
    for maps_s, maps_t in (([f], [f]), ([f, f], [f, f, f]), ([f, f], [f, torch.zeros(2, 5, 4, 4)])):
        with pytest.raises(ValueError, match=r"student \[3.*\] and teacher \[3.*\]"):
            losses.fsp(maps_s, maps_t)
