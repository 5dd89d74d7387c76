"""Losses between transformers, against their formulas written with loops in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from kd_lib import losses
from kd_lib.shapes import real_tokens

LENGTHS = (6, 1, 4)


def random(*shape, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def mask(lengths=LENGTHS):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def states(width, *, seed, lengths=LENGTHS):
    """Hidden states [B, L, D], 0 at padding, as networks give them."""
    return random(len(lengths), max(lengths), width, seed=seed) * mask(lengths)[..., None]


def scores(heads, *, seed, lengths=LENGTHS):
    real = mask(lengths)
    both = real[:, None, :, None] & real[:, None, None, :]
    return random(len(lengths), heads, max(lengths), max(lengths), seed=seed) * both


def slow_pkd(h_s, h_t):
    total, (b, m, d) = 0.0, h_s.shape
    for i in range(b):
        for j in range(m):
            s, t = h_s[i, j].tolist(), h_t[i, j].tolist()
            s_length, t_length = (math.sqrt(sum(x * x for x in v)) for v in (s, t))
            total += sum((x / s_length - y / t_length) ** 2 for x, y in zip(s, t, strict=True))
    return total / (b * m * d)


def slow_attention(a_s, a_t, lengths):
    total = 0.0
    for b, length in enumerate(lengths):
        squares = [
            (a_s[b, i, q, k] - a_t[b, i, q, k]).item() ** 2
            for i in range(a_s.shape[1])
            for q in range(length)
            for k in range(length)
        ]
        total += sum(squares) / len(squares)
    return total / len(lengths)


def slow_hidden(r_s, h_t, lengths):
    total = 0.0
    for b, length in enumerate(lengths):
        pairs = [(r_s[b, k], h_t[b, k]) for k in range(length)]
        squares = [(x - y) ** 2 for s, t in pairs for x, y in zip(s.tolist(), t.tolist(), strict=True)]
        total += sum(squares) / len(squares)
    return total / len(lengths)


@pytest.mark.parametrize("shape", [(1, 1, 2), (4, 3, 5), (2, 5, 16)])
def test_pkd(shape):
    h_s, h_t = random(*shape, seed=1), random(*shape, seed=2)
    assert losses.pkd(h_s, h_t).item() == pytest.approx(slow_pkd(h_s, h_t), rel=1e-12)


def test_pkd_by_hand():
    h_s, h_t = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 7.0]]])
    assert losses.pkd(h_s, h_t).item() == pytest.approx(((0.6 - 0) ** 2 + (0.8 - 1) ** 2) / 2)
    assert losses.pkd(h_s, -h_s).item() == pytest.approx(4 / 2)  # the largest


def test_pkd_is_averaged_not_summed_over_dimensions():
    """Of as many dimensions as BERT has: a sum would be 768 times as large, and a weight of 100 belongs to the mean."""
    h_s, h_t = random(3, 5, 768, seed=1), random(3, 5, 768, seed=2)
    distance = (F.normalize(h_s, dim=2) - F.normalize(h_t, dim=2)).square().sum(2)
    assert losses.pkd(h_s, h_t).item() == pytest.approx(distance.mean().item() / 768)
    assert 100 * losses.pkd(h_s, h_t).item() < 1 < distance.mean().item()


def test_pkd_sees_directions_only():
    h_s, h_t = random(3, 2, 4, seed=1), random(3, 2, 4, seed=2)
    assert losses.pkd(h_s, 5 * h_s).item() == pytest.approx(0, abs=1e-15)
    torch.testing.assert_close(losses.pkd(3 * h_s, h_t), losses.pkd(h_s, 0.1 * h_t))
    h_s[1, 1] = 0  # has none
    own = h_s.requires_grad_()
    losses.pkd(own, h_t).backward()
    assert own.grad.isfinite().all() and (own.grad[1, 1] == 0).all()


@pytest.mark.parametrize("lengths", [(6, 1, 4), (3, 3), (5,)])
@pytest.mark.parametrize("heads", [1, 3])
def test_tinybert_attention(heads, lengths):
    a_s, a_t = (scores(heads, seed=seed, lengths=lengths) for seed in (1, 2))
    expected = slow_attention(a_s, a_t, lengths)
    assert losses.tinybert_attention(a_s, a_t, mask(lengths)).item() == pytest.approx(expected, rel=1e-12)
    if len(set(lengths)) == 1:  # without padding it is the plain mean
        assert losses.tinybert_attention(a_s, a_t, mask(lengths)).item() == pytest.approx(F.mse_loss(a_s, a_t).item())


@pytest.mark.parametrize("lengths", [(6, 1, 4), (3, 3), (5,)])
@pytest.mark.parametrize("width", [2, 7])
def test_tinybert_hidden(width, lengths):
    h_s, h_t = (states(width, seed=seed, lengths=lengths) for seed in (1, 2))
    expected = slow_hidden(h_s, h_t, lengths)
    assert losses.tinybert_hidden(h_s, h_t, mask(lengths)).item() == pytest.approx(expected, rel=1e-12)
    if len(set(lengths)) == 1:
        assert losses.tinybert_hidden(h_s, h_t, mask(lengths)).item() == pytest.approx(F.mse_loss(h_s, h_t).item())


def test_tinybert_by_hand():
    """A text of one token, and one of two: the second's single error of 2 is one of four scores, one of four numbers."""
    real = torch.tensor([[True, False], [True, True]])
    a = torch.zeros(2, 1, 2, 2)
    a[1, 0, 0, 1] = 2.0
    assert losses.tinybert_attention(a, torch.zeros_like(a), real).item() == (0 + 4 / 4) / 2
    h = torch.zeros(2, 2, 2)
    h[1, 1, 0] = 2.0
    assert losses.tinybert_hidden(h, torch.zeros_like(h), real).item() == (0 + 4 / 4) / 2


def test_padding_further_changes_neither_loss_nor_gradient():
    real = mask()
    a_s, a_t, h_s, h_t = scores(2, seed=1), scores(2, seed=2), states(3, seed=3), states(3, seed=4)
    pads = [(0, 3, 0, 3)] * 2 + [(0, 0, 0, 3)] * 2
    wide = [
        F.pad(x, pad, value=7.0) for x, pad in zip((a_s, a_t, h_s, h_t), pads, strict=True)
    ]  # whatever stands there
    wide[1], wide[3] = F.pad(a_t, pads[0]), F.pad(h_t, pads[2])
    for loss, (s, t), (far_s, far_t) in (
        (losses.tinybert_attention, (a_s, a_t), wide[:2]),
        (losses.tinybert_hidden, (h_s, h_t), wide[2:]),
    ):
        s, far_s = s.clone().requires_grad_(), far_s.clone().requires_grad_()
        near, far = loss(s, t, real), loss(far_s, far_t, F.pad(real, (0, 3)))
        torch.testing.assert_close(near, far)
        near.backward()
        far.backward()
        inside = tuple(slice(0, n) for n in s.shape)
        torch.testing.assert_close(s.grad, far_s.grad[inside])
        assert far_s.grad.abs().sum().item() == pytest.approx(s.grad.abs().sum().item())


def test_every_text_counts_the_same():
    """So the mean over a batch is the mean of its parts, weighted with their sizes."""
    a_s, a_t, real = scores(2, seed=1), scores(2, seed=2), mask()
    parts = [losses.tinybert_attention(a_s[i : i + 1], a_t[i : i + 1], real[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(losses.tinybert_attention(a_s, a_t, real), torch.stack(parts).mean())


def test_gradients():
    real = mask((3, 2))
    a_t, h_t = scores(2, seed=2, lengths=(3, 2)), states(3, seed=4, lengths=(3, 2))
    gradcheck = torch.autograd.gradcheck
    assert gradcheck(lambda a: losses.tinybert_attention(a, a_t, real), random(2, 2, 3, 3, grad=True))
    assert gradcheck(lambda h: losses.tinybert_hidden(h, h_t, real), random(2, 3, 3, grad=True))
    assert gradcheck(lambda h: losses.pkd(h, random(2, 3, 4, seed=5)), random(2, 3, 4, grad=True))
    # the teacher's side as well: policies detach it where it must not move
    assert gradcheck(lambda h: losses.pkd(random(2, 3, 4, seed=5), h), random(2, 3, 4, grad=True))
    assert gradcheck(lambda a: losses.tinybert_attention(a_t, a, real), random(2, 2, 3, 3, grad=True))


def test_sixteen_bits_are_widened():
    a = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)  # its square is beyond float16
    assert losses.tinybert_attention(a, torch.zeros_like(a), mask((2,))).item() == 90000
    h = torch.randn(2, 3, 8)
    assert losses.pkd(h.bfloat16(), h.bfloat16()).dtype == torch.float32


def test_real_tokens_are_those_with_a_state():
    assert torch.equal(real_tokens(states(3, seed=1)), mask())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.pkd(random(2, 3, 4), random(2, 3, 5)), r"pkd .* student \[2, 3, 4\] and teacher \[2, 3, 5\]"),
        (lambda: losses.pkd(random(2, 4), random(2, 4)), "pkd needs two tensors of one shape with 3 axes"),
        (lambda: losses.tinybert_attention(scores(2, seed=0), scores(1, seed=0), mask()), "tinybert_attention needs"),
        (lambda: losses.tinybert_hidden(states(3, seed=0), states(1, seed=0), mask()), "tinybert_hidden needs"),
    ],
)
def test_shapes_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_imitation_is_kd_or_the_squared_error():
    z_s, z_t = random(4, 3, seed=1), random(4, 3, seed=2)
    y = torch.tensor([0, 1, 2, 0])
    expected = losses.kd(z_s, z_t, tau=2.0, tau_teacher=3.0)
    assert torch.equal(losses.imitation(z_s, z_t, y, tau=2.0, tau_teacher=3.0), expected)
    one_s, one_t = z_s[:, :1], z_t[:, :1]
    assert torch.equal(losses.imitation(one_s, one_t, y.double(), tau=2.0), (one_s - one_t).square().mean())
