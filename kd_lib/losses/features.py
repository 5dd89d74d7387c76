"""Losses on feature maps: one map of the student against one of the teacher. A method sums them over stages."""

from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_lib.losses.logits import Scalar, check_positive, wide

Map: TypeAlias = Tensor
"""[B, channels, H, W]: a stage's output."""

SHORTEST = 1e-12


def fitnet(r_s: Map, f_t: Map) -> Scalar:
    r"""Squared distance between the teacher's map (the hint) and what a regressor makes of the student's.

    .. math:: \frac{1}{B C H W} \sum_{bchw} (r(f^s)_{bchw} - f^t_{bchw})^2

    Source: FitNets (Romero et al. 2015) Eq. 3.
    Differs from the paper: the mean over all entries instead of half their sum, so that the weight does not depend on
    the map's size.
    Args:
        r_s: the student's map after the regressor, of the teacher's shape.
        f_t: the teacher's map.
    Returns:
        The mean over batch, channels and pixels.
    Raises:
        ValueError: two different shapes.
    """
    _check_equal("fitnet", r_s, f_t)
    return (wide(r_s) - wide(f_t)).square().mean()


def at(f_s: Map, f_t: Map) -> Scalar:
    r"""Attention transfer: where in the image the activations are strong, whatever their channel and scale.

    .. math:: \frac{1}{B H W} \sum_{bhw} (Q^s_{bhw} - Q^t_{bhw})^2,
              \quad Q_b = \frac{A_b}{\|A_b\|_2},\ A_{bhw} = \frac{1}{C} \sum_c f_{bchw}^2

    Source: Zagoruyko and Komodakis 2017, Eq. 2 with the exponent p = 2.
    Differs from the paper: Eq. 2 prints beta / 2 times the norm of the difference and sets beta to 1000 over batch and
    pixels; here the square is averaged, as CRD's tables do, and beta / 2 is left to the weight. Where sizes differ the
    paper interpolates attention maps; here the larger feature map is average-pooled first, as CRD's tables do.
    Args:
        f_s, f_t: maps of any two widths and sizes.
    Returns:
        The mean over batch and pixels. A map that is zero everywhere counts as no attention anywhere.
    Raises:
        ValueError: batches of different sizes, or not [B, channels, H, W].
    """
    f_s, f_t = same_size(f_s, f_t)
    q_s, q_t = (unit(f.square().mean(1).flatten(1), dim=1) for f in (f_s, f_t))
    return (q_s - q_t).square().mean()


def vid(mean: Map, f_t: Map, variance: Tensor) -> Scalar:
    r"""Negative log-likelihood of the teacher's map under a Gaussian around the student's prediction of it.

    .. math:: \frac{1}{B C H W} \sum_{bchw} \frac{1}{2}
              \left[ \frac{(\mu(f^s)_{bchw} - f^t_{bchw})^2}{\sigma_c^2} + \log \sigma_c^2 \right]

    Minimising it raises a lower bound on the mutual information of the two maps.
    Source: variational information distillation (Ahn et al. 2019), section 2, without the constant log(2 pi) / 2.
    Differs from the paper: the mean over channels and pixels instead of their sum.
    Args:
        mean: mu(f_s), the student's prediction of the teacher's map.
        f_t: the teacher's map.
        variance: [C], > 0, one for each channel of the teacher. It is learned: where the student cannot tell a
            channel, a large variance makes that channel count less.
    Returns:
        Nats, averaged over batch, channels and pixels. It can be negative.
    Raises:
        ValueError: two different shapes, another number of variances than channels, or one that is not positive (not
            read on an accelerator: that would wait for the device).
    """
    _check_equal("vid", mean, f_t)
    if variance.shape != f_t.shape[1:2]:
        raise ValueError(f"vid needs one variance a channel, {[f_t.shape[1]]}, got {list(variance.shape)}.")
    check_positive("variance", variance)
    variance = variance[:, None, None]
    return 0.5 * ((wide(mean) - wide(f_t)).square() / variance + variance.log()).mean()


def nst(f_s: Map, f_t: Map) -> Scalar:
    r"""Neuron selectivity transfer: the squared maximum mean discrepancy of the two sets of channel maps.

    .. math:: \frac{1}{B} \sum_b \Big[ \frac{1}{C_s^2} \sum_{ij} k(u^s_{bi}, u^s_{bj})
              + \frac{1}{C_t^2} \sum_{ij} k(u^t_{bi}, u^t_{bj}) - \frac{2}{C_s C_t} \sum_{ij} k(u^s_{bi}, u^t_{bj}) \Big],
              \quad k(u, v) = (u \cdot v)^2

    with u_i the map of channel i over its HW pixels, divided by its length.
    Source: Huang and Wang 2017, section 4, the polynomial kernel with d = 2 and c = 0.
    Differs from the paper: it halves the loss, which is left to the weight here. Where sizes differ the larger map is
    average-pooled, as CRD's tables do.
    Args:
        f_s, f_t: maps of any two widths and sizes.
    Returns:
        The mean over the batch, in 0..2. A channel that is zero everywhere is similar to none.
    Raises:
        ValueError: batches of different sizes, or not [B, channels, H, W].
    """
    u_s, u_t = (unit(f.flatten(2), dim=2) for f in same_size(f_s, f_t))
    c_s, c_t, pixels = u_s.shape[1], u_t.shape[1], u_s.shape[2]
    # sum_ij (u_i . v_j)^2 = <U^T U, V^T V>: either Gram matrix serves, [C, C] or [HW, HW]. Late stages have thousands of
    # channels and few pixels, early ones the reverse, so the smaller is built.
    if 2 * pixels**2 <= c_s**2 + c_t**2 + c_s * c_t:
        return (u_s.mT @ u_s / c_s - u_t.mT @ u_t / c_t).square().sum((1, 2)).mean()
    same_s, same_t, across = ((u @ v.mT).square().mean() for u, v in ((u_s, u_s), (u_t, u_t), (u_s, u_t)))
    return same_s + same_t - 2 * across


def same_size(f_s: Map, f_t: Map) -> tuple[Map, Map]:
    """Both maps at the smaller height and the smaller width of the two, in at least float32; the larger is average-pooled.

    Raises:
        ValueError: batches of different sizes, or not [B, channels, H, W].
    """
    if f_s.ndim != 4 or f_t.ndim != 4 or len(f_s) != len(f_t):
        raise ValueError(
            f"maps must be [B, channels, H, W] of one B, got student {list(f_s.shape)} and teacher {list(f_t.shape)}."
        )
    size = (min(f_s.shape[2], f_t.shape[2]), min(f_s.shape[3], f_t.shape[3]))
    pooled = (f if f.shape[2:] == size else F.adaptive_avg_pool2d(f, size) for f in (wide(f_s), wide(f_t)))
    return tuple(pooled)


def unit(x: Tensor, *, dim: int) -> Tensor:
    """x divided by its Euclidean length along `dim`. One shorter than 1e-12 has no direction: zero, without gradient."""
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    # Dividing by a small constant instead would multiply the gradient by its inverse, 1e12 in torch's normalize.
    return x * torch.where(length > SHORTEST, 1 / length.where(length > SHORTEST, 1), 0)


def _check_equal(name: str, of_student: Map, f_t: Map) -> None:
    # Shapes that differ could broadcast without a word.
    if f_t.ndim != 4 or of_student.shape != f_t.shape:
        raise ValueError(
            f"{name} needs two [B, channels, H, W] maps of one shape, got student {list(of_student.shape)} and "
            f"teacher {list(f_t.shape)}."
        )
