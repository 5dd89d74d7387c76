"""DKD: the right class and the wrong ones as two terms."""

from torch import Tensor
from torch.nn import functional as F

from kd_lib import losses
from kd_lib.methods.base import Method
from kd_lib.methods.logits import warm_up
from kd_lib.shapes import Batch, Outputs


class DKD(Method):
    r"""Decoupled knowledge distillation, see `losses.dkd`.

    .. math:: L = w_{ce} CE(z_s, y) + \min(\text{epoch} / 20, 1) \, [w_{target} L_{TCKD} + w_{nontarget} L_{NCKD}]

    Source: Zhao et al., CVPR 2022; the warm-up as in the authors' code.

    Args:
        tau: temperature of both sides.
        target_weight: alpha in the paper, 1 for all pairs.
        nontarget_weight: beta in the paper: 2 for resnet56 -> 20 and resnet110 -> 32, 6 for vgg and WRN, else 8.
        ce_weight: of the cross-entropy.
        warmup: epochs in which the first two weights grow from 0, at least 0. A run shorter than this never reaches the
            full weights.
    """

    def __init__(
        self,
        *,
        tau: float = 4.0,
        target_weight: float = 1.0,
        nontarget_weight: float = 8.0,
        ce_weight: float = 1.0,
        warmup: float = 20.0,
    ):
        super().__init__()
        self.tau, self.ce_weight, self.warmup = tau, ce_weight, warmup
        self.target_weight, self.nontarget_weight = target_weight, nontarget_weight

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch, progress: float) -> dict[str, Tensor]:
        z_s, z_t, y = student.logits, teacher.logits, batch.y
        warm = warm_up(progress, self.warmup)
        return {
            "tckd": warm * self.target_weight * losses.tckd(z_s, z_t, y, tau=self.tau),
            "nckd": warm * self.nontarget_weight * losses.nckd(z_s, z_t, y, tau=self.tau),
            "ce": self.ce_weight * F.cross_entropy(z_s, y),
        }

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[float, float]:
        return self.tau, self.tau
