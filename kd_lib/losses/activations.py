"""Losses on maps before their activation: which side of zero a neuron is on, and what lies above a margin."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_lib.losses.logits import Scalar, wide


def ab(f_s: Tensor, f_t: Tensor, *, margin: float = 1.0) -> Scalar:
    r"""Activation boundaries: the student's neurons fire where the teacher's do, at least a margin away from zero.

    .. math:: \frac{1}{B} \sum_b \sum_{chw} \begin{cases} \max(0, \mu - s)^2 & t > 0 \\ \max(0, \mu + s)^2 & t \le 0 \end{cases}

    Source: Heo et al. 2019 (AAAI), Eq. 7. How strongly a teacher's neuron fires is ignored, so its side gets no gradient.
    Args:
        f_s: the student's maps before activation, brought to the teacher's shape [B, C, H, W].
        f_t: the teacher's maps before activation [B, C, H, W].
        margin: mu > 0, how far from zero a neuron must be on its side before it costs nothing.
    Returns:
        Squared distance, summed over channels and pixels, averaged over the batch.
    Raises:
        ValueError: maps of two shapes; a margin that is not positive.
    """
    _check_maps(f_s, f_t)
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin}.")
    f_s, f_t = wide(f_s), wide(f_t)
    missing = torch.where(f_t > 0, F.relu(margin - f_s), F.relu(margin + f_s))
    return missing.square().sum() / len(f_s)


def ofd(f_s: Tensor, f_t: Tensor, *, margin: Tensor) -> Scalar:
    r"""Feature distillation overhauled: partial L2 to the teacher's maps before activation, cut from below at a margin.

    .. math:: \frac{1}{B} \sum_b \sum_{chw} \mathbb{1}[s > t' \lor t' > 0] \, (s - t')^2, \quad t' = \max(t, m_c)

    Where the teacher's neuron is silent (t' <= 0), a student's below it costs nothing: after the ReLU both are zero.
    Source: Heo et al. 2019 (ICCV), section 3: margin ReLU and partial L2.
    Args:
        f_s: the student's maps before activation, brought to the teacher's shape [B, C, H, W].
        f_t: the teacher's maps before activation [B, C, H, W].
        margin: [C], m_c <= 0 of each of the teacher's channels, see `negative_mean`.
    Returns:
        Squared distance, summed over channels and pixels, averaged over the batch.
    Raises:
        ValueError: maps of two shapes; a margin that is not one number a channel.
    """
    _check_maps(f_s, f_t)
    if margin.shape != f_t.shape[1:2]:
        raise ValueError(f"margin must be [{f_t.shape[1]}], one a channel, got shape {list(margin.shape)}.")
    f_s, target = wide(f_s), torch.maximum(wide(f_t), margin[None, :, None, None])
    counts = (f_s > target) | (target > 0)
    # A product and no selection: a NaN must reach the loss, where the loop finds it.
    return ((f_s - target).square() * counts).sum() / len(f_s)


def negative_mean(f_t: Tensor) -> Tensor:
    r"""Mean of each channel's negative values: the margin of `ofd`.

    .. math:: m_c = E[x_c \mid x_c < 0]

    Source: Heo et al. 2019 (ICCV), section 3: the expectation, which it offers to take over the training data or from the batch
    norm before the activation, whose output it takes for Gaussian. Here the former: a residual sum has no batch norm of its own.
    Args:
        f_t: maps before activation [B, C, H, W].
    Returns:
        [C], below 0; 0 for a channel without a negative value, whose margin ReLU is then the ReLU.
    """
    f_t = wide(f_t)
    return f_t.clamp_max(0).sum((0, 2, 3)) / (f_t < 0).sum((0, 2, 3)).clamp_min(1)


def _check_maps(f_s: Tensor, f_t: Tensor) -> None:
    if f_s.ndim != 4 or f_s.shape != f_t.shape:
        raise ValueError(
            f"maps must be [B, C, H, W] and of one shape, got student {list(f_s.shape)} and teacher {list(f_t.shape)}."
        )
