"""Losses on feature maps against hand-worked values, slow loops, identities and finite differences."""

import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.overrides import TorchFunctionMode

from kd_lib.losses import at, fitnet, nst, same_size, unit, vid


def maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def positions(tensor: torch.Tensor):
    return itertools.product(*map(range, tensor.shape))


def slow_halve(f: torch.Tensor) -> torch.Tensor:
    b, c, h, w = f.shape
    out = torch.zeros(b, c, h // 2, w // 2, dtype=f.dtype)
    for n, k, i, j in positions(out):
        out[n, k, i, j] = sum(f[n, k, 2 * i + di, 2 * j + dj] for di in (0, 1) for dj in (0, 1)) / 4
    return out


# fitnet


def test_fitnet_by_hand():
    r_s, f_t = torch.tensor([[[[1.0, 2.0]], [[0.0, 5.0]]]]), torch.tensor([[[[0.0, 2.0]], [[3.0, 1.0]]]])
    assert fitnet(r_s, f_t).item() == (1 + 0 + 9 + 16) / 4


def test_fitnet_equals_the_loop_and_its_finite_differences():
    r_s, f_t = maps(3, 4, 2, 5, seed=1).requires_grad_(), maps(3, 4, 2, 5, seed=2).requires_grad_()
    total = sum((r_s[p].item() - f_t[p].item()) ** 2 for p in positions(f_t))
    assert fitnet(r_s, f_t).item() == pytest.approx(total / f_t.numel(), rel=1e-12)
    assert gradcheck(fitnet, (r_s, f_t))


def test_fitnet_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"\[2, 1, 4, 4\].*\[2, 3, 4, 4\]"):
        fitnet(maps(2, 1, 4, 4), maps(2, 3, 4, 4))


# at


def slow_at(f_s: torch.Tensor, f_t: torch.Tensor) -> float:
    b, _, h, w = f_s.shape
    total = 0.0
    for n in range(b):
        attention = []
        for f in (f_s, f_t):
            energy = [sum(v.item() ** 2 for v in f[n, :, i, j]) / f.shape[1] for i in range(h) for j in range(w)]
            length = math.sqrt(sum(e**2 for e in energy))
            attention.append([e / length for e in energy])
        total += sum((q_s - q_t) ** 2 for q_s, q_t in zip(*attention, strict=True))
    return total / (b * h * w)


def test_at_by_hand():
    # Attention (1, 0) against (1, 1) / sqrt 2: ((1 - 1/sqrt 2)^2 + 1/2) / 2.
    f_s, f_t = torch.tensor([[[[-3.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0]], [[0.0, -1.0]]]])
    assert at(f_s, f_t).item() == pytest.approx(1 - 1 / math.sqrt(2))


@pytest.mark.parametrize(("shape_s", "shape_t"), [((3, 2, 4, 5), (3, 7, 4, 5)), ((2, 5, 1, 2), (2, 3, 1, 2))])
def test_at_equals_the_loop(shape_s, shape_t):
    f_s, f_t = maps(*shape_s, seed=1), maps(*shape_t, seed=2)
    assert at(f_s, f_t).item() == pytest.approx(slow_at(f_s, f_t), rel=1e-12)


def test_at_pools_the_larger_map_on_either_side():
    small, large = maps(2, 3, 2, 3, seed=1), maps(2, 4, 4, 6, seed=2)
    expected = slow_at(small, slow_halve(large))
    assert at(small, large).item() == pytest.approx(expected, rel=1e-12)
    assert at(large, small).item() == pytest.approx(expected, rel=1e-12)


def test_at_ignores_scale_sign_order_and_number_of_channels():
    f_s, f_t = maps(3, 4, 3, 3, seed=1), maps(3, 2, 3, 3, seed=2)
    scale = torch.tensor([0.1, 5.0, 40.0], dtype=torch.float64)[:, None, None, None]
    changed = (-scale * f_s.flip(1)).repeat(1, 3, 1, 1)
    assert at(changed, f_t).item() == pytest.approx(at(f_s, f_t).item(), rel=1e-12)
    assert at(changed, f_s).item() == pytest.approx(0, abs=1e-20)


def test_at_is_differentiable_on_both_sides():
    assert gradcheck(at, (maps(2, 3, 2, 3, seed=1).requires_grad_(), maps(2, 2, 4, 6, seed=2).requires_grad_()))


def test_at_of_a_map_without_activations_is_finite():
    f_s = torch.zeros(2, 3, 2, 2, requires_grad=True)
    value = at(f_s, maps(2, 3, 2, 2, dtype=torch.float32))
    value.backward()
    assert value.item() == pytest.approx(1 / 4)  # the teacher's attention has length 1, over four pixels
    assert f_s.grad.abs().max() == 0


# vid


def test_vid_by_hand():
    mean, f_t = torch.tensor([[[[1.0]], [[2.0]]]]), torch.tensor([[[[3.0]], [[2.0]]]])
    expected = (0.5 * (4 / 2 + math.log(2)) + 0.5 * math.log(0.25)) / 2
    assert vid(mean, f_t, torch.tensor([2.0, 0.25])).item() == pytest.approx(expected)


def test_vid_equals_the_loop_and_the_density_of_a_gaussian():
    mean, f_t, variance = maps(3, 4, 2, 3, seed=1), maps(3, 4, 2, 3, seed=2), maps(4, seed=3).abs() + 0.1
    total = 0.0
    for p in positions(f_t):
        var = variance[p[1]].item()
        total += 0.5 * ((mean[p].item() - f_t[p].item()) ** 2 / var + math.log(var))
    value = vid(mean, f_t, variance).item()
    assert value == pytest.approx(total / f_t.numel(), rel=1e-12)
    gaussian = torch.distributions.Normal(mean, variance.sqrt()[:, None, None])
    assert value == pytest.approx(-gaussian.log_prob(f_t).mean().item() - 0.5 * math.log(2 * math.pi), rel=1e-12)


def test_the_best_variance_is_the_mean_squared_error_of_its_channel():
    mean, f_t = maps(3, 4, 2, 3, seed=1), maps(3, 4, 2, 3, seed=2)
    best = (mean - f_t).square().mean((0, 2, 3)).requires_grad_()
    vid(mean, f_t, best).backward()
    assert best.grad.abs().max() < 1e-12


def test_vid_is_differentiable_in_everything():
    inputs = (maps(2, 3, 2, 2, seed=1), maps(2, 3, 2, 2, seed=2), maps(3, seed=3).abs() + 0.1)
    assert gradcheck(vid, tuple(x.requires_grad_() for x in inputs))


def test_vid_refuses_what_would_broadcast_and_variances_that_are_none():
    f = maps(2, 3, 2, 2)
    with pytest.raises(ValueError, match=r"one variance a channel, \[3\], got \[1\]"):
        vid(f, f, torch.ones(1))
    with pytest.raises(ValueError, match="one shape"):
        vid(f[:, :1], f, torch.ones(3))
    with pytest.raises(ValueError, match=r"variance must be positive, got 0\.0"):
        vid(f, f, torch.tensor([1.0, 0.0, 2.0]))


# nst


def slow_nst(f_s: torch.Tensor, f_t: torch.Tensor) -> float:
    total = 0.0
    for sample_s, sample_t in zip(f_s, f_t, strict=True):
        channels = []
        for f in (sample_s, sample_t):
            rows = [channel.flatten().tolist() for channel in f]
            channels.append([[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in rows])

        def kernel_mean(us, vs):
            return sum(sum(a * b for a, b in zip(u, v, strict=True)) ** 2 for u in us for v in vs) / len(us) / len(vs)

        s, t = channels
        total += kernel_mean(s, s) + kernel_mean(t, t) - 2 * kernel_mean(s, t)
    return total / len(f_s)


def test_nst_by_hand():
    # Student: one channel (1, 0). Teacher: (1, 0) and (0, 1). Kernel means 1, 1/2 and 1/2: 1 + 1/2 - 1.
    f_s, f_t = torch.tensor([[[[7.0, 0.0]]]]), torch.tensor([[[[2.0, 0.0]], [[0.0, -3.0]]]])
    assert nst(f_s, f_t).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("shape_s", "shape_t"),
    [((2, 3, 4, 5), (2, 5, 4, 5)), ((3, 9, 1, 2), (3, 4, 1, 2)), ((2, 1, 3, 3), (2, 12, 3, 3))],
    ids=["more pixels than channels", "fewer", "one wide, one narrow"],
)
def test_nst_equals_the_loop_with_either_gram_matrix(shape_s, shape_t):
    f_s, f_t = maps(*shape_s, seed=1), maps(*shape_t, seed=2)
    assert nst(f_s, f_t).item() == pytest.approx(slow_nst(f_s, f_t), rel=1e-12)
    assert gradcheck(nst, (f_s.requires_grad_(), f_t.requires_grad_()))


def test_nst_never_builds_the_larger_gram_matrix():
    """1024 channels of 2x2 pixels in a batch of 64: their Gram matrices would take three times 256 MB."""
    largest = 0

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            largest = max(largest, result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    f = maps(64, 1024, 2, 2, dtype=torch.float32)
    with Watch():
        nst(f, f)
    assert largest == f.numel()


def test_nst_pools_the_larger_map():
    small, large = maps(2, 3, 2, 3, seed=1), maps(2, 4, 4, 6, seed=2)
    assert nst(small, large).item() == pytest.approx(slow_nst(small, slow_halve(large)), rel=1e-12)


@pytest.mark.parametrize("size", [(1, 2), (5, 5)])
def test_nst_compares_sets_of_channels(size):
    """Order, repetition, sign and strength of channels do not count; another distribution does."""
    f = maps(2, 6, *size, seed=1)
    strength = maps(2, 6, 1, 1, seed=2)
    same = (f * strength)[:, torch.randperm(6)].repeat(1, 2, 1, 1)
    assert nst(f, same).item() == pytest.approx(0, abs=1e-14)
    assert nst(f, maps(2, 6, *size, seed=3)).item() > 1e-3


def test_nst_of_dead_channels_is_finite_and_they_get_no_gradient():
    f_s = maps(2, 4, 3, 3, dtype=torch.float32)
    f_s[:, 1] = 0
    f_s.requires_grad_()
    nst(f_s, maps(2, 4, 3, 3, seed=1, dtype=torch.float32)).backward()
    assert f_s.grad.isfinite().all()
    assert f_s.grad[:, 1].abs().max() == 0
    assert f_s.grad[:, 0].abs().max() > 0


# what they share


def test_same_size_takes_the_smaller_height_and_the_smaller_width():
    f_s, f_t = maps(2, 3, 4, 2), maps(2, 5, 2, 6)
    a, b = same_size(f_s, f_t)
    assert (a.shape, b.shape) == ((2, 3, 2, 2), (2, 5, 2, 2))
    assert a[0, 0, 0, 0].item() == pytest.approx(f_s[0, 0, :2, 0].mean().item())
    assert b[1, 4, 1, 1].item() == pytest.approx(f_t[1, 4, 1, 3:].mean().item())
    unchanged = same_size(f_s, f_s)
    assert unchanged[0] is f_s and unchanged[1] is f_s


@pytest.mark.parametrize("loss", [at, nst])
def test_batches_of_two_sizes_are_an_error(loss):
    with pytest.raises(ValueError, match=r"student \[1, 3, 2, 2\] and teacher \[2, 3, 2, 2\]"):
        loss(maps(1, 3, 2, 2), maps(2, 3, 2, 2))
    with pytest.raises(ValueError, match="must be"):
        loss(maps(2, 3), maps(2, 3))


def test_unit_leaves_what_has_no_direction_at_zero_and_without_gradient():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-13, 0.0]], requires_grad=True)
    value = unit(x, dim=1)
    value.backward(torch.tensor([[1.0, 0.0]] * 3))
    torch.testing.assert_close(value, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(x.grad, torch.tensor([[0.128, -0.096], [0.0, 0.0], [0.0, 0.0]]))  # (I - u u^T) / 5


@pytest.mark.parametrize("loss", [fitnet, at, nst, lambda s, t: vid(s, t, torch.full((3,), 2.0))])
def test_sixteen_bit_maps_are_computed_in_float32(loss):
    f_s, f_t = maps(2, 3, 4, 4, seed=1, dtype=torch.bfloat16), maps(2, 3, 4, 4, seed=2, dtype=torch.bfloat16)
    value = loss(f_s, f_t)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(f_s.float(), f_t.float()))
