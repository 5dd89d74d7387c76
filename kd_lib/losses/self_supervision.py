"""The losses of SSKD: a contrastive self-supervised task, and what of the teacher's answers is worth copying."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_lib.losses.logits import Logits, Scalar, soft_kl


def view_similarity(h_views: Tensor, h: Tensor) -> Tensor:
    r"""Which original is a transformed image most like?

    .. math:: A_{ij} = \cos(\tilde h_i, h_j)

    Source: Xu et al. 2020 (SSKD), section 3.1.

    Args:
        h_views: [V B, D], embeddings of V transformed views; row v B + j is a view of image j.
        h: [B, D], embeddings of the originals.
    Returns:
        [V B, B], cosines.
    Raises:
        ValueError: rows that are no multiple of B, or another D.
    """
    if h_views.ndim != 2 or h.ndim != 2 or h_views.shape[1] != h.shape[1] or len(h_views) % len(h):
        raise ValueError(f"views must be [V B, D] of originals [B, D], got {list(h_views.shape)} of {list(h.shape)}.")
    return F.normalize(h_views, dim=1) @ F.normalize(h, dim=1).T


def contrastive_prediction(similarity: Tensor, *, tau: float = 1.0) -> Scalar:
    r"""The self-supervised task: find the original of each transformed image within the batch.

    .. math:: -\frac{1}{VB} \sum_i \log \frac{e^{A_{i j(i)} / \tau}}{\sum_j e^{A_{ij} / \tau}}

    Source: Xu et al. 2020 (SSKD), section 3.1. The paper leaves open: the value of tau; 1 in the authors' published experiments.

    Args:
        similarity: [V B, B], from `view_similarity`.
        tau: temperature > 0. Cosines at 1 are never far apart: among 64 images that have nothing in common even the right
            answer costs 3.2 nats.
    Returns:
        Nats, averaged over the views.
    Raises:
        ValueError: a tau that is not positive.
    """
    if not 0 < tau < math.inf:
        raise ValueError(f"tau must be a positive, finite number, got {tau}.")
    return F.cross_entropy(similarity / tau, originals(similarity))


def originals(similarity: Tensor) -> Tensor:
    """[V B], j(i): the right column of each row of `view_similarity`."""
    views, batch = similarity.shape
    return torch.arange(batch, device=similarity.device).repeat(views // batch)


def transformed_kd(z_s: Logits, z_t: Logits, y: Tensor, *, tau: float = 4.0, keep_wrong: float = 1.0) -> Scalar:
    r"""KD on transformed images, where the teacher is not too wrong.

    .. math:: \frac{\tau^2}{|K|} \sum_{i \in K} \mathrm{KL}(\mathrm{softmax}(z^t_i / \tau) \,\|\, \mathrm{softmax}(z^s_i / \tau))

    K: all samples that the teacher classifies correctly, and the best of the others (`least_wrong`).

    Source: Xu et al. 2020 (SSKD), sections 3.2 and 3.3.

    Args:
        z_s, z_t: [M, C], logits of both for the transformed images. The caller detaches what must not move.
        y: [M], labels of the images before the transformation.
        tau: temperature > 0.
        keep_wrong: share of the teacher's wrong predictions that is copied, in [0, 1].
    Returns:
        Nats times tau squared, summed over classes, averaged over K; 0 where K is empty.
    Raises:
        ValueError: as `soft_kl` and `least_wrong`.
    """
    kept = least_wrong(error_level(z_t, y), share=keep_wrong)
    # soft_kl averages over all samples; this makes it an average over the kept ones
    weight = kept.to(torch.promote_types(z_s.dtype, torch.float32))[:, None]
    return soft_kl(z_s, z_t, tau_s=tau, tau_t=tau, scale=tau**2 * weight / weight.mean().clamp_min(1 / len(weight)))


def sskd(a_s: Tensor, a_t: Tensor, *, tau: float = 0.5, keep_wrong: float = 0.75) -> Scalar:
    r"""The student answers the self-supervised task as the teacher does, right or slightly wrong.

    .. math:: \frac{\tau^2}{|K|} \sum_{i \in K} \mathrm{KL}(\mathrm{softmax}(A^t_i / \tau) \,\|\, \mathrm{softmax}(A^s_i / \tau))

    `transformed_kd` with originals in place of classes: a view is one of B, and its own original the right answer.

    Source: Xu et al. 2020 (SSKD), sections 3.2 and 3.3.

    Args:
        a_s, a_t: [V B, B], from `view_similarity`, of both networks. The caller detaches what must not move.
        tau: temperature > 0.
        keep_wrong: share of the teacher's wrong predictions that is copied, in [0, 1].
    Returns:
        Nats times tau squared, summed over the originals, averaged over K; 0 where K is empty.
    Raises:
        ValueError: as `transformed_kd`.
    """
    return transformed_kd(a_s, a_t, originals(a_t), tau=tau, keep_wrong=keep_wrong)


def error_level(scores: Tensor, truth: Tensor) -> Tensor:
    """[M], how many of the [M, C] scores of each sample are above that of the truth [M]: 0 is a correct prediction."""
    return (scores > scores.gather(1, truth[:, None])).sum(1)


def least_wrong(level: Tensor, *, share: float) -> Tensor:
    r"""Selective transfer: which predictions are right enough to be copied.

    All correct ones, and of the n wrong ones the floor(share n) whose truth ranks highest; among equals the earlier ones.

    Source: Xu et al. 2020 (SSKD), section 3.3.

    Args:
        level: [M], from `error_level`.
        share: in [0, 1].
    Returns:
        [M], True where kept.
    Raises:
        ValueError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of wrong predictions to keep must be in [0, 1], got {share}.")
    wrong = (level > 0).sum()
    kept = len(level) - wrong + (share * wrong.double()).floor()
    position = level.argsort(stable=True).argsort()
    return position < kept
