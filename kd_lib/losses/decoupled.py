"""Decoupled KD: how sure the teacher is of the right class, and what it thinks of the others, as two terms."""

import torch
from torch import Tensor

from kd_lib.losses.logits import Logits, Scalar, check_logits, check_positive, soft_kl, wide


def tckd(z_s: Logits, z_t: Logits, y: Tensor, *, tau: float = 4.0) -> Scalar:
    r"""Target-class KD: the right class against all others together.

    .. math:: \frac{\tau^2}{B} \sum_b \mathrm{KL}(b^t_b \,\|\, b^s_b), \quad b = (p_y, 1 - p_y), \quad
              p = \mathrm{softmax}(z / \tau)

    Source: Zhao et al., CVPR 2022 (arXiv 2203.08679).
    Args:
        z_s, z_t: logits of student and teacher [B, C]. The caller detaches what must not move.
        y: labels [B], int64.
        tau: temperature > 0 of both sides.
    Returns:
        Nats times tau squared, summed over the two classes, averaged over the batch.
    Raises:
        ValueError: labels that are not [B]; otherwise as `soft_kl`.
    """
    check_logits(z_s, z_t)
    check_positive("tau", tau)
    # The others' share is a logsumexp: 1 - p_y would be zero where the network is sure.
    two_s, two_t = (
        torch.cat([target, others.logsumexp(dim=1, keepdim=True)], dim=1)
        for target, others in (_split(wide(z) / tau, y) for z in (z_s, z_t))
    )
    return soft_kl(two_s, two_t, tau_s=1.0, tau_t=1.0, scale=tau**2)


def nckd(z_s: Logits, z_t: Logits, y: Tensor, *, tau: float = 4.0) -> Scalar:
    r"""Non-target-class KD: the wrong classes among themselves.

    .. math:: \frac{\tau^2}{B} \sum_b \mathrm{KL}(q^t_b \,\|\, q^s_b), \quad
              q_c = \frac{p_c}{1 - p_y} \text{ for } c \ne y, \quad p = \mathrm{softmax}(z / \tau)

    Source: Zhao et al., CVPR 2022 (arXiv 2203.08679).
    Args:
        z_s, z_t: logits of student and teacher [B, C]. The caller detaches what must not move.
        y: labels [B], int64.
        tau: temperature > 0 of both sides.
    Returns:
        Nats times tau squared, summed over the C - 1 wrong classes, averaged over the batch; zero with two classes.
    Raises:
        ValueError: labels that are not [B]; otherwise as `soft_kl`.
    """
    check_logits(z_s, z_t)
    (_, others_s), (_, others_t) = (_split(z, y) for z in (z_s, z_t))
    return soft_kl(others_s, others_t, tau_s=tau, tau_t=tau, scale=tau**2)


def dkd(
    z_s: Logits,
    z_t: Logits,
    y: Tensor,
    *,
    tau: float = 4.0,
    target_weight: float = 1.0,
    nontarget_weight: float = 8.0,
) -> Scalar:
    r"""Decoupled KD: the two parts of KD with weights of their own.

    .. math:: L = w_{target} \, L_{TCKD} + w_{nontarget} \, L_{NCKD}

    KD itself weights each sample's second part by how unsure the teacher is, KD = TCKD + (1 - p_t,y) NCKD, so it hardly
    teaches the wrong classes of samples of which the teacher is sure.

    Source: Zhao et al., CVPR 2022 (arXiv 2203.08679); the weights are its alpha and beta.
    Args:
        z_s, z_t: logits of student and teacher [B, C]. The caller detaches what must not move.
        y: labels [B], int64.
        tau: temperature > 0 of both sides.
        target_weight, nontarget_weight: of the two parts, at least 0.
    Returns:
        Nats times tau squared and the weights, summed over classes, averaged over the batch.
    Raises:
        ValueError: as `tckd`.
    """
    return target_weight * tckd(z_s, z_t, y, tau=tau) + nontarget_weight * nckd(z_s, z_t, y, tau=tau)


def _split(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of the right class [B, 1] and of the others [B, C - 1], in their order."""
    if y.shape != (len(z),):
        raise ValueError(f"labels must be [{len(z)}], one for each sample, got shape {list(y.shape)}.")
    y = y[:, None]
    others = torch.arange(z.shape[1] - 1, device=z.device).expand(len(z), -1)
    return z.gather(1, y), z.gather(1, others + (others >= y))
