"""What a student-friendly teacher (SFTN) learns beside its labels: to agree with its student branches."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kd_lib.errors import unknown
from kd_lib.losses.labels import supervised
from kd_lib.losses.logits import Logits, Scalar, soft_kl

Direction = Literal["branch_to_teacher", "teacher_to_branch"]


def branch_kl(
    z_branches: Sequence[Logits], z_t: Logits, *, tau: float = 1.0, direction: Direction = "branch_to_teacher"
) -> Scalar:
    r"""Mean divergence between a teacher and the student branches that grow out of it.

    .. math:: \frac{1}{N - 1} \sum_{i=1}^{N-1} KL(q^i_R \| q_T), \quad q = \mathrm{softmax}(z / \tau)

    Source: SFTN Eq. 5, in the direction it prints; `direction` offers the usual one of distillation, KL(q_T || q_R).
    The gradient is meant to reach both sides: the branches learn from the teacher, the teacher becomes easy for them.
    The paper leaves open: a factor tau squared. Here there is none, as in Eq. 5; at its tau = 1 it would make no difference.
    Args:
        z_branches: logits [B, C] of the N - 1 branches, at least one.
        z_t: logits [B, C] of the teacher.
        tau: temperature > 0 of both.
        direction: "branch_to_teacher" is KL(q_R || q_T), "teacher_to_branch" KL(q_T || q_R).
    Returns:
        Nats, summed over classes, averaged over the batch and the branches.
    Raises:
        ValueError: no branch; an unknown direction; logits as in `soft_kl`.
    """
    _check(z_branches)
    if direction == "branch_to_teacher":
        parts = [soft_kl(z_t, z, tau_s=tau, tau_t=tau, scale=1.0) for z in z_branches]
    elif direction == "teacher_to_branch":
        parts = [soft_kl(z, z_t, tau_s=tau, tau_t=tau, scale=1.0) for z in z_branches]
    else:
        raise unknown("direction of branch_kl", direction, ("branch_to_teacher", "teacher_to_branch"))
    return torch.stack(parts).mean()


def branch_ce(z_branches: Sequence[Logits], y: Tensor) -> Scalar:
    r"""Mean cross-entropy of the student branches; of a regression, mean squared error.

    .. math:: \frac{1}{N - 1} \sum_{i=1}^{N-1} CE(q^i_R, y)

    Source: SFTN Eq. 6.
    Args:
        z_branches: logits [B, C] of the N - 1 branches, at least one.
        y: labels [B].
    Returns:
        Nats, averaged over the batch and the branches.
    Raises:
        ValueError: no branch.
    """
    _check(z_branches)
    return torch.stack([supervised(z, y) for z in z_branches]).mean()


def _check(z_branches: Sequence[Logits]) -> None:
    if not z_branches:
        raise ValueError("a student-friendly teacher needs the logits of at least one branch.")
