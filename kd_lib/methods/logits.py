"""Methods that match softened logits."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from kd_lib import losses
from kd_lib.methods.base import Method
from kd_lib.shapes import Batch, Outputs


def warm_up(progress: float, epochs: float) -> float:
    """A weight that grows from 0 to 1 in the first `epochs` epochs and stays there; always 1 for 0 epochs."""
    return 1.0 if progress >= epochs else progress / epochs


class KD(Method):
    r"""Vanilla knowledge distillation.

    .. math:: L = w_{kd} \, \tau^2 KL(p_t \| p_s) + w_{ce} \, CE(z_s, y)

    Source: Hinton et al. 2015; PESF-KD v1 Eqs. 3, 5, v2 Eqs. 1, 4; ATKD Eqs. 2, 3. Its variants are settings:

    - a temperature for each side, ATKD Table 8 (student 4 with teacher 3.5 to 5, and teacher 4 with student 3.5 to 4.5);
    - KD switched off late in the student's training: the early-stopped KD of Cho & Hariharan 2019;
    - where a number is predicted and not a class (STS-B), both terms are squared errors, `losses.mse`;
    - the teacher's predictions only (`tau=1, kd_weight=1, ce_weight=0`): the "patient teacher" of Beyer et al. 2022.

    The paper leaves open: the scale of unequal temperatures, see `losses.kd`; here their product.

    Args:
        tau: temperature of both sides; higher shows the student more of the wrong classes. 4 in all four papers.
        kd_weight, ce_weight: alpha and 1 - alpha in the papers.
        tau_teacher: the teacher's own temperature; `tau` is then the student's. None: the same.
        until_epoch: number of epochs with KD, at least 1; then cross-entropy alone, with weight 1. None: all.
    Raises:
        ValueError: until_epoch below 1.
    """

    regresses = True

    def __init__(
        self,
        *,
        tau: float = 4.0,
        kd_weight: float = 0.9,
        ce_weight: float = 0.1,
        tau_teacher: float | None = None,
        until_epoch: int | None = None,
    ):
        super().__init__()
        if until_epoch is not None and until_epoch < 1:
            raise ValueError(f"until_epoch must be at least 1, or None for KD in all epochs; got {until_epoch}.")
        self.tau, self.tau_teacher, self.until_epoch = tau, tau_teacher, until_epoch
        self.kd_weight, self.ce_weight = kd_weight, ce_weight

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch, progress: float) -> dict[str, Tensor]:
        ce = losses.supervised(student.logits, batch.y)
        if not self.listens(progress):
            return {"ce": ce}
        z_s, z_t = student.logits, teacher.logits
        matched = losses.imitation(z_s, z_t, batch.y, tau=self.tau, tau_teacher=self.tau_teacher)
        return {"kd": self.kd_weight * matched, "ce": self.ce_weight * ce}

    def listens(self, progress: float) -> bool:
        return self.until_epoch is None or progress < self.until_epoch

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[float, float]:
        return self.tau, self.tau if self.tau_teacher is None else self.tau_teacher


class ATKD(Method):
    r"""Adaptive temperatures: each sample's logits are divided by their own standard deviation.

    .. math:: L = w_{kd} \, \frac{1}{B} \sum_b s_b KL(p_t^b \| p_s^b) + w_{ce} \, CE(z_s, y),
              \quad \tau_t^b = \sigma(z_t^b),\ \tau_s^b = \sigma(z_s^b)

    Source: ATKD Eq. 10. The paper leaves open: the scale s. Eq. 10 as printed has none, which makes its gradient
    about an order of magnitude weaker than that of KD at temperature 4. It prints the cross-entropy of the tempered labels; the KL
    here has the same gradient for the student. With two classes tempered logits are always +1 and -1, so ATKD then teaches nothing.

    Args:
        scale: "none" (as printed), "sigma" (tau_s tau_t, detached) or a number (16 is KD's tau^2 at temperature 4).
        detach_tau: cut the gradient through sigma(z_s). Eq. 10 as written lets it flow.
    """

    def __init__(
        self,
        *,
        scale: Literal["none", "sigma"] | float = "none",
        detach_tau: bool = False,
        kd_weight: float = 0.9,
        ce_weight: float = 0.1,
    ):
        super().__init__()
        self.scale, self.detach_tau, self.kd_weight, self.ce_weight = scale, detach_tau, kd_weight, ce_weight

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch, progress: float) -> dict[str, Tensor]:
        matched = losses.atkd(student.logits, teacher.logits, scale=self.scale, detach_tau=self.detach_tau)
        return {"kd": self.kd_weight * matched, "ce": self.ce_weight * F.cross_entropy(student.logits, batch.y)}

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
        return losses.sigma(z_s), losses.sigma(z_t)
