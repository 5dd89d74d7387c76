"""The contrastive loss of CRD: tell an image's own embedding in the other network from those of other images."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_lib.losses.logits import Scalar


def crd(positive: Tensor, negative: Tensor, *, z: float | Tensor, n_train: int, tau: float = 0.07) -> Scalar:
    r"""Noise-contrastive estimation: one embedding of the same image against N of other images.

    .. math:: -\frac{1}{B} \sum_b \Big[ \log h(s^+_b) + \sum_{k=1}^{N} \log (1 - h(s^-_{bk})) \Big],
              \quad h(s) = \frac{e^{s / \tau} / Z}{e^{s / \tau} / Z + N / M}

    M is the number of training images, s a cosine. One side of CRD: the student's embeddings against the teacher's, or the reverse.

    Source: Tian et al. 2020, Eq. 18.
    Differs from the paper: the constant Z of Wu et al. 2018 (instance discrimination), as in the authors' published experiments; the
    paper prints h without it. At the start e^{s/tau} is about Z / M, so h is about 1 / (1 + N): neither certain nor even odds for
    every negative. NCE would find Z itself if the scores had a free offset; cosines have none.

    Args:
        positive: [B], cosines with the embedding of the same image.
        negative: [B, N], cosines with embeddings of other images.
        z: normalising constant > 0, a number or a tensor of one element; see `crd_constant`.
        n_train: M.
        tau: temperature > 0; a lower one counts close negatives more.
    Returns:
        Nats, summed over the positive and the negatives, averaged over the batch.
    Raises:
        ValueError: cosines of other shapes; a tau or z that is not positive.
    """
    _check_negative(negative)
    if positive.shape != negative.shape[:1]:
        raise ValueError(f"positive must be [{len(negative)}], got {list(positive.shape)}.")
    _check_positive("tau", tau)
    if not isinstance(z, Tensor):
        _check_positive("z", z)
    # h = sigmoid(s / tau - offset), so both logarithms are exact where h rounds to 0 or 1.
    offset = torch.as_tensor(z, dtype=negative.dtype).log() + math.log(negative.shape[1] / n_train)
    miss = F.logsigmoid(positive / tau - offset)
    alarm = F.logsigmoid(offset - negative / tau)
    return -(miss + alarm.sum(1)).mean()


def crd_constant(negative: Tensor, *, n_train: int, tau: float = 0.07) -> Scalar:
    r"""Z of `crd`: what e^{s/tau} sums to over the training set, estimated from a sample.

    .. math:: Z = \frac{M}{B N} \sum_{bk} e^{s^-_{bk} / \tau}

    Source: Wu et al. 2018 (instance discrimination): estimated once, then a constant.

    Args:
        negative: [B, N], cosines with embeddings drawn at random.
        n_train, tau: as in `crd`.
    Returns:
        One positive number, without gradient.
    Raises:
        ValueError: as `crd`.
    """
    _check_negative(negative)
    _check_positive("tau", tau)
    return n_train * (negative.detach() / tau).exp().mean()


def _check_negative(negative: Tensor) -> None:
    if negative.ndim != 2 or not negative.shape[1]:
        raise ValueError(f"negative must be [B, N] with N of at least 1, got {list(negative.shape)}.")


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive, finite number, got {value}.")
