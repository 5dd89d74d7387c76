"""Learning from labels and from predictions, of classes or of a number; labels smoothed; the teacher's prediction put right."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_lib.losses.logits import Temperature, kd


def supervised(z: Tensor, y: Tensor) -> Tensor:
    r"""What every method has of the labels: cross-entropy, or the squared error where they are numbers.

    .. math:: CE(z, y) = \log \sum_c e^{z_c} - z_y \qquad\text{or}\qquad (z_0 - y)^2

    Args:
        z: logits [B, C]; of a regression [B, 1].
        y: labels [B]: int64 in 0..C-1, or floating point to predict the number itself (STS-B).
    Returns:
        Mean over the batch.
    Raises:
        ValueError: numbers to predict, and more than one output.
    """
    return mse(z, y[:, None]) if y.is_floating_point() else F.cross_entropy(z, y)


def imitation(
    z_s: Tensor, z_t: Tensor, y: Tensor, *, tau: Temperature, tau_teacher: Temperature | None = None
) -> Tensor:
    """What a method has of the teacher's prediction: `kd`, or `mse` where numbers are predicted.

    Args:
        z_s, z_t: logits [B, C]; of a regression [B, 1].
        y: labels [B]; only whether they are floating point is read.
        tau, tau_teacher: as in `kd`; of no meaning for numbers.
    """
    return mse(z_s, z_t) if y.is_floating_point() else kd(z_s, z_t, tau=tau, tau_teacher=tau_teacher)


def mse(z_s: Tensor, z_t: Tensor) -> Tensor:
    r"""Squared error of a predicted number: what stands for KD in a regression.

    .. math:: \frac{1}{B} \sum_b (z_s^b - z_t^b)^2

    Args:
        z_s: the prediction [B, 1].
        z_t: label or teacher's prediction [B, 1].
    Returns:
        Mean over the batch.
    Raises:
        ValueError: other shapes.
    """
    if z_s.shape != z_t.shape or z_s.shape[1:] != (1,):
        raise ValueError(f"a regression compares [B, 1] with [B, 1], got {list(z_s.shape)} and {list(z_t.shape)}.")
    return F.mse_loss(z_s, z_t)


def label_smoothing(y: Tensor, alpha: float, K: int) -> Tensor:
    r"""Soft labels that mix the right class with the uniform distribution.

    .. math:: y^{LS}_k = y_k (1 - \alpha) + \alpha / K

    Source: Szegedy et al. 2016; PESF v1 Eq. 2.
    Args:
        y: labels [B], int64, in 0..K-1.
        alpha: share of the uniform part, 0 (hard labels) to 1 (uniform).
        K: number of classes.
    Returns:
        Probabilities [B, K], float32.
    Raises:
        ValueError: alpha outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in 0..1, got {alpha}.")
    return F.one_hot(y, K).float() * (1 - alpha) + alpha / K


def label_adjustment(z_t: Tensor, y: Tensor) -> Tensor:
    r"""Teacher logits whose largest value is moved to the right class.

    .. math:: z'_y = z_m,\quad z'_m = z_y,\quad z'_c = z_c \text{ otherwise},\qquad m = \arg\max_c z_c

    Source: PESF v2 section 3.1.
    The paper leaves open: how the maximum is "guaranteed to be" the true label. Here the two logits change places,
    which keeps the sharpness, the entropy and sigma of the prediction.
    Args:
        z_t: teacher logits [B, C].
        y: labels [B], int64.
    Returns:
        Logits [B, C], a permutation of each row; rows with argmax z_t = y are unchanged. The gradient is permuted
        likewise. Where y shares the largest value with another class, nothing needs to move and the tie stays.
    """
    y, top = y[:, None], z_t.argmax(dim=1, keepdim=True)
    source = torch.arange(z_t.shape[1], device=z_t.device).repeat(len(z_t), 1)
    return z_t.gather(1, source.scatter(1, y, top).scatter(1, top, y))
