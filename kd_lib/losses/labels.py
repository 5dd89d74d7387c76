"""Targets made from labels: the label smoothed, and the teacher's prediction put right."""

import torch
from torch import Tensor
from torch.nn import functional as F


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
