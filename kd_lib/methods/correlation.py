"""DIST: predictions matched by their correlation."""

from torch import Tensor
from torch.nn import functional as F

from kd_lib import losses
from kd_lib.methods.base import Method
from kd_lib.shapes import Batch, Outputs


class DIST(Method):
    r"""Distillation from a stronger teacher: relations instead of probabilities, see `losses.dist`.

    .. math:: L = w_{ce} CE(z_s, y) + w_{kd} \, \tau^2 (L_{inter} + L_{intra})

    Source: Huang et al., NeurIPS 2022.

    Args:
        tau: temperature of both sides, 4 on CIFAR-100, 1 on ImageNet.
        kd_weight: of both relations, beta = gamma = 2 in the paper.
        ce_weight: of the cross-entropy.
    """

    relates_samples = True

    def __init__(self, *, tau: float = 4.0, kd_weight: float = 2.0, ce_weight: float = 1.0):
        super().__init__()
        self.tau, self.kd_weight, self.ce_weight = tau, kd_weight, ce_weight

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch, progress: float) -> dict[str, Tensor]:
        return {
            "kd": self.kd_weight * losses.dist(student.logits, teacher.logits, tau=self.tau),
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.y),
        }

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[float, float]:
        return self.tau, self.tau
