"""Methods of a group that trains together from scratch: policy "peers", no teacher."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from kd_lib import losses
from kd_lib.errors import unknown
from kd_lib.methods.base import Method
from kd_lib.shapes import Batch, Outputs

KDCL_TARGETS = {
    "naive": losses.kdcl_naive,
    "linear": losses.kdcl_linear,
    "minlogit": losses.kdcl_minlogit,
    "general": losses.kdcl_general,
}


class Mutual(Method):
    r"""Every member of a group learns from its labels and from what the group says.

    .. math:: L = \sum_i CE(z_i, y) + w_{kd} L_i

    What a member learns from is detached, so that one backward pass of the sum gives each network the gradient of its own loss.

    Args:
        kd_weight: w_kd.
        tau: temperature of L_i.
    """

    needs_teacher = False

    def __init__(self, *, kd_weight: float, tau: float):
        super().__init__()
        self.kd_weight, self.tau = kd_weight, tau

    def learn(self, members: Sequence[Tensor], targets: Sequence[Tensor], y: Tensor) -> list[Tensor]:
        """L_i of each member; `targets` are the members' logits without gradient."""
        raise NotImplementedError

    def forward(
        self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, progress: float
    ) -> dict[str, Tensor]:
        """As in `Method`; `teacher` holds the outputs of each peer."""
        members = [student.logits, *(peer.logits for peer in teacher)]
        ce = [losses.supervised(z, batch.y) for z in members]
        learned = self.learn(members, [z.detach() for z in members], batch.y)
        return {
            "ce": ce[0],
            "kd": self.kd_weight * learned[0],
            "peers_ce": sum(ce[1:]),
            "peers_kd": self.kd_weight * sum(learned[1:]),
        }

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[float, float]:
        return self.tau, self.tau


class DML(Mutual):
    r"""Deep mutual learning.

    .. math:: L_i = \frac{1}{K - 1} \sum_{j \ne i} \tau^2 KL(p_j \| p_i)

    Where a number is predicted and not a class (STS-B), the squared error stands for the KL. Source: Zhang et al. 2018.
    Differs from the paper: all networks step at once, from the same predictions. Its algorithm moves one network, predicts
    anew, and moves the next.

    Args:
        kd_weight, tau: 1 and 1 in the paper.
    """

    regresses = True

    def __init__(self, *, kd_weight: float = 1.0, tau: float = 1.0):
        super().__init__(kd_weight=kd_weight, tau=tau)

    def learn(self, members: Sequence[Tensor], targets: Sequence[Tensor], y: Tensor) -> list[Tensor]:
        others = [[*targets[:i], *targets[i + 1 :]] for i in range(len(members))]
        if y.is_floating_point():
            errors = [[losses.mse(z, z_j) for z_j in z_peers] for z, z_peers in zip(members, others, strict=True)]
            return [sum(mine) / len(mine) for mine in errors]
        return [losses.dml(z, z_peers, tau=self.tau) for z, z_peers in zip(members, others, strict=True)]


class KDCL(Mutual):
    r"""Collaborative learning: every member learns from one ensemble of the group.

    .. math:: L_i = \tau^2 KL\big(\mathrm{softmax}(z_t / \tau) \| \mathrm{softmax}(z_i / \tau)\big)

    Source: Guo et al. 2020, which calls the four ensembles z_t KDCL-Naive, -Linear, -MinLogit and -General. SFTN Table 4 has
    KDCL-Naive; the PESF-KD papers do not say which they ran.
    Differs from the paper: all members see the same images, where it augments them for each member anew; "general" weighs the
    members on the batch (see `losses.kdcl_general`).

    Args:
        target: the ensemble, "naive", "linear", "minlogit" or "general".
        kd_weight: lambda in the paper.
        tau: 4, that of KD in the four papers of this companion, so that KD and KDCL differ in nothing but the target.
    Raises:
        ValueError: an unknown target.
    """

    def __init__(
        self,
        *,
        target: Literal["naive", "linear", "minlogit", "general"] = "naive",
        kd_weight: float = 1.0,
        tau: float = 4.0,
    ):
        super().__init__(kd_weight=kd_weight, tau=tau)
        if target not in KDCL_TARGETS:
            raise unknown("target of KDCL", target, KDCL_TARGETS)
        self.target = target
        self.relates_samples = target == "general"

    def learn(self, members: Sequence[Tensor], targets: Sequence[Tensor], y: Tensor) -> list[Tensor]:
        z_t = KDCL_TARGETS[self.target](targets, y)
        return [losses.kd(z, z_t, tau=self.tau) for z in members]
