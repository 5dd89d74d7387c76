"""Losses on relations between the samples of a batch: similarities, distances, angles.

Their value for a sample depends on the whole batch, so a batch must not be split: losses of halves do not average to the loss
of the whole. Student and teacher may be of any two widths, since only what stands between samples is compared.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_lib.losses.features import Map, unit
from kd_lib.losses.logits import Scalar, wide

SMALLEST_AFFINITY = 1e-7


def sp(f_s: Map, f_t: Map) -> Scalar:
    r"""Similarity-preserving: samples that look alike to the teacher should look alike to the student.

    .. math:: \frac{1}{B^2} \|G^s - G^t\|_F^2, \quad G_{i\cdot} = \tilde G_{i\cdot} / \|\tilde G_{i\cdot}\|_2,\
              \tilde G = F F^T,\ F = \mathrm{reshape}(f) \in \mathbb{R}^{B \times CHW}

    Source: Tung and Mori 2019, section 3.
    Args:
        f_s, f_t: maps [B, channels, H, W] of any two widths and sizes.
    Returns:
        Divided by B squared: each row of G has length 1 whatever B is, so the loss is at most 4 / B.
    Raises:
        ValueError: batches of different sizes.
    """
    _check_batch("sp", f_s, f_t)
    g_s, g_t = (unit(rows @ rows.T, dim=1) for rows in (wide(f).flatten(1) for f in (f_s, f_t)))
    return (g_s - g_t).square().mean()


def cc(h_s: Tensor, h_t: Tensor, *, gamma: float = 0.4, order: int = 2) -> Scalar:
    r"""Correlation congruence: a Gaussian kernel between samples, by its Taylor series.

    .. math:: \frac{1}{B^2} \|K^s - K^t\|_F^2, \quad
              K_{ij} = \sum_{p=0}^{P} e^{-2\gamma} \frac{(2\gamma)^p}{p!} (h_i \cdot h_j)^p
              \approx e^{-\gamma \|h_i - h_j\|^2}, \quad \|h_i\| = 1

    Source: Peng et al. 2019, section 3 (gamma 0.4 and P = 2 on CIFAR-100).
    Args:
        h_s, h_t: embeddings [B, D_s], [B, D_t]; normalised here.
        gamma: > 0; a larger one makes the kernel narrower and the series worse.
        order: P >= 1, the last power of the series.
    Returns:
        Divided by B squared.
    Raises:
        ValueError: gamma or order out of range, or embeddings as in `rkd_distance`.
    """
    _check_embeddings("cc", h_s, h_t)
    if not (0 < gamma < math.inf and order >= 1):
        raise ValueError(f"cc needs a positive, finite gamma and an order of at least 1, got {gamma} and {order}.")
    weights = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
    k_s, k_t = (sum(w * cosine**p for p, w in enumerate(weights)) for cosine in (_cosines(h_s), _cosines(h_t)))
    return (k_s - k_t).square().mean()


def rkd_distance(h_s: Tensor, h_t: Tensor) -> Scalar:
    r"""Relational distances: pairwise distances, each side's in units of its own mean.

    .. math:: \frac{1}{B^2} \sum_{ij} \ell(\psi^s_{ij} - \psi^t_{ij}), \quad \psi_{ij} = \frac{\|h_i - h_j\|_2}{\mu},\
              \mu = \frac{1}{B (B - 1)} \sum_{i \ne j} \|h_i - h_j\|_2, \quad
              \ell(x) = \begin{cases} x^2 / 2 & |x| \le 1 \\ |x| - 1/2 & \text{else} \end{cases}

    Source: relational knowledge distillation (Park et al. 2019), section 3.2.1.
    Differs from the paper: it sums over the pairs; the weights it reports belong to the mean over all B squared entries,
    those of a sample with itself (zero) included, as in the authors' published code.
    Args:
        h_s, h_t: embeddings [B, D_s], [B, D_t], B >= 2.
    Returns:
        The mean over B squared entries. Equal embeddings have distance zero and get no gradient from each other.
    Raises:
        ValueError: not two [B, D] tensors of one B >= 2.
    """
    _check_embeddings("rkd", h_s, h_t)
    return F.smooth_l1_loss(_relative_distances(h_s), _relative_distances(h_t))


def rkd_angle(h_s: Tensor, h_t: Tensor) -> Scalar:
    r"""Relational angles: the cosine of the angle at j between the directions to i and to k, for all triplets.

    .. math:: \frac{1}{B^3} \sum_{ijk} \ell(\psi^s_{ijk} - \psi^t_{ijk}), \quad \psi_{ijk} = e_{ij} \cdot e_{kj},\
              e_{ij} = \frac{h_i - h_j}{\|h_i - h_j\|_2}, \quad \ell \text{ as in rkd\_distance}

    Source: relational knowledge distillation (Park et al. 2019), section 3.2.2.
    Differs from the paper: the mean over all B cubed entries instead of a sum, as for `rkd_distance`; an angle with an
    arm of length zero has cosine 0.
    Args:
        h_s, h_t: embeddings [B, D_s], [B, D_t], B >= 2. Memory grows with B squared D and with B cubed.
    Returns:
        The mean over B cubed entries. Equal embeddings have no direction between them and get no gradient from it.
    Raises:
        ValueError: as `rkd_distance`.
    """
    _check_embeddings("rkd", h_s, h_t)
    return F.smooth_l1_loss(_angles(h_s), _angles(h_t))


def rkd(h_s: Tensor, h_t: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Scalar:
    r"""Relational knowledge distillation: distances and angles.

    .. math:: w_D L_{distance} + w_A L_{angle}

    Source: Park et al. 2019, section 3; 25 and 50 are its weights on CIFAR-100.
    Args:
        h_s, h_t: embeddings [B, D_s], [B, D_t], B >= 2.
        distance_weight, angle_weight: >= 0.
    Returns:
        As the two losses, weighted.
    Raises:
        ValueError: as `rkd_distance`.
    """
    return distance_weight * rkd_distance(h_s, h_t) + angle_weight * rkd_angle(h_s, h_t)


def pkt(h_s: Tensor, h_t: Tensor) -> Scalar:
    r"""Probabilistic knowledge transfer: which other samples a sample would pick as its neighbours.

    .. math:: \frac{1}{B^2} \sum_{ij} P^t_{ij} \log \frac{P^t_{ij}}{P^s_{ij}}, \quad P_{ij} = \frac{K_{ij}}{\sum_k K_{ik}},\
              K_{ij} = \frac{1}{2} \left( \frac{h_i \cdot h_j}{\|h_i\| \|h_j\|} + 1 \right)

    Source: Passalis and Tefas 2018, section 3, the cosine kernel.
    Differs from the paper: its sums leave out j = i, and it does not divide by B squared; both are here as in the
    authors' published code, to which the weight 30000 belongs.
    Args:
        h_s, h_t: embeddings [B, D_s], [B, D_t].
    Returns:
        Nats, the mean over all B squared entries (not the KL averaged over the batch, which is B times larger).
    Raises:
        ValueError: as `rkd_distance`.
    """
    _check_embeddings("pkt", h_s, h_t)
    p_s, p_t = _neighbours(h_s), _neighbours(h_t)
    return (p_t * (p_t.log() - p_s.log())).mean()


def _cosines(h: Tensor) -> Tensor:
    h = unit(wide(h), dim=1)
    return h @ h.T


def _neighbours(h: Tensor) -> Tensor:
    # Opposite embeddings have K = 0, and with it P log P; the bound keeps the logarithm finite.
    kernel = ((_cosines(h) + 1) / 2).clamp_min(SMALLEST_AFFINITY)
    return kernel / kernel.sum(1, keepdim=True)


def _relative_distances(h: Tensor) -> Tensor:
    # From the differences themselves: |a|^2 + |b|^2 - 2ab loses the small distances. The norm's gradient at zero is zero.
    distances = torch.linalg.vector_norm(_differences(h), dim=2)
    mean = distances.sum() / (len(h) * (len(h) - 1))
    return distances / mean.where(mean > 0, 1)  # all equal: all distances are zero, in any unit


def _angles(h: Tensor) -> Tensor:
    directions = unit(_differences(h), dim=2)
    return directions @ directions.mT


def _differences(h: Tensor) -> Tensor:
    """[B, B, D]: entry j, i is h_i - h_j."""
    h = wide(h)
    return h[None] - h[:, None]


def _check_batch(name: str, of_student: Tensor, of_teacher: Tensor) -> None:
    if len(of_student) != len(of_teacher):
        raise ValueError(f"{name} needs batches of one size, got {len(of_student)} and {len(of_teacher)} samples.")


def _check_embeddings(name: str, h_s: Tensor, h_t: Tensor) -> None:
    if h_s.ndim != 2 or h_t.ndim != 2 or len(h_s) != len(h_t) or len(h_s) < 2:
        raise ValueError(
            f"{name} needs two [B, D] embeddings of one B >= 2, got student {list(h_s.shape)} and "
            f"teacher {list(h_t.shape)}."
        )
