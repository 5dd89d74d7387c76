"""KD with other temperatures: taken from the logits, dropped on one side, or learned."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_lib import losses
from kd_lib.methods.base import Method
from kd_lib.methods.logits import warm_up
from kd_lib.shapes import Batch, Outputs


class Tempered(Method):
    r"""One divergence of softened logits beside the cross-entropy; a subclass says which.

    .. math:: L = w_{kd} \, D(z_s, z_t) + w_{ce} \, CE(z_s, y)

    Args:
        kd_weight, ce_weight: of the two terms, each at least 0.
    """

    def __init__(self, *, kd_weight: float = 0.9, ce_weight: float = 0.1):
        super().__init__()
        self.kd_weight, self.ce_weight = kd_weight, ce_weight

    def divergence(self, z_s: Tensor, z_t: Tensor, progress: float) -> Tensor:
        """D, without its weight."""
        raise NotImplementedError

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch, progress: float) -> dict[str, Tensor]:
        return {
            "kd": self.kd_weight * self.divergence(student.logits, teacher.logits, progress),
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.y),
        }


class SKD(Tempered):
    """Spherical KD: the student's logits brought to the size of the teacher's, see `losses.skd`.

    Source: Guo et al. 2020.

    Args:
        tau: temperature of the teacher; the student's is tau sigma(z_s) / sigma(z_t).
    """

    def __init__(self, *, tau: float = 4.0, **common: Any):
        super().__init__(**common)
        self.tau = tau

    def divergence(self, z_s: Tensor, z_t: Tensor, progress: float) -> Tensor:
        return losses.skd(z_s, z_t, tau=self.tau)

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[Tensor, float]:
        return self.tau * losses.sigma(z_s) / losses.sigma(z_t), self.tau


class NormKD(Tempered):
    """Temperatures in units of each sample's sigma, scaled by the teacher's squared, see `losses.normkd`.

    Source: Chi et al. 2023.

    Args:
        tau: temperature of both sides in units of their sigma.
    """

    def __init__(self, *, tau: float = 2.0, **common: Any):
        super().__init__(**common)
        self.tau = tau

    def divergence(self, z_s: Tensor, z_t: Tensor, progress: float) -> Tensor:
        return losses.normkd(z_s, z_t, tau=self.tau)

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
        return self.tau * losses.sigma(z_s), self.tau * losses.sigma(z_t)


class LogitStd(Tempered):
    """KD between the logits' Z-scores, see `losses.logit_std`. It differs from NormKD in its weights only.

    Source: Sun et al., CVPR 2024.

    Args:
        tau: temperature of the Z-scores.
        kd_weight: 9 in the paper, ten times that of KD: Z-scores are smaller than logits, and so is their divergence.
    """

    def __init__(self, *, tau: float = 2.0, kd_weight: float = 9.0, **common: Any):
        super().__init__(kd_weight=kd_weight, **common)
        self.tau = tau

    def divergence(self, z_s: Tensor, z_t: Tensor, progress: float) -> Tensor:
        return losses.logit_std(z_s, z_t, tau=self.tau)

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
        return self.tau * losses.sigma(z_s), self.tau * losses.sigma(z_t)


class TTM(Tempered):
    """Transformed teacher matching: no temperature on the student's side, see `losses.ttm`.

    Source: Zheng & Yang, ICLR 2024, Eq. 2.
    The paper leaves open: one setting for all pairs; its Tables 8 and 9 tune both for each of 13. Chosen here: those of
    vgg13 -> vgg8. With gamma .1: WRN-40-2 -> 16-2 101, WRN-40-2 -> 40-1 76, resnet110 -> 32 33, resnet32x4 -> 8x4 100,
    ResNet50 -> vgg8 70; resnet56 -> 20 has gamma .3, weight 7, resnet110 -> 20 gamma .2, weight 8.

    Args:
        gamma: one over the teacher's temperature, 0 < gamma <= 1.
        kd_weight: beta in the paper. A smaller gamma needs a larger weight.
        ce_weight: 1 in the paper.
    """

    def __init__(self, *, gamma: float = 0.1, kd_weight: float = 45.0, ce_weight: float = 1.0):
        super().__init__(kd_weight=kd_weight, ce_weight=ce_weight)
        self.gamma = gamma

    def divergence(self, z_s: Tensor, z_t: Tensor, progress: float) -> Tensor:
        return losses.ttm(z_s, z_t, gamma=self.gamma)

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[float, float]:
        return 1.0, 1 / self.gamma


class WTTM(TTM):
    """Weighted TTM: samples of which the teacher is less sure count more, see `losses.wttm`.

    Source: Zheng & Yang, ICLR 2024, section 4.
    The paper leaves open: one setting for all pairs, as for `TTM`. Chosen here: those of vgg13 -> vgg8. With gamma .1:
    WRN-40-2 -> 16-2 4, WRN-40-2 -> 40-1 3, resnet110 -> 32 1.5, resnet32x4 -> 8x4 3, ResNet50 -> vgg8 2; resnet56 -> 20
    has gamma .3, weight 1.5, resnet110 -> 20 gamma .2, weight 2.

    Args:
        gamma: one over the teacher's temperature, 0 < gamma <= 1.
        kd_weight: beta in the paper.
        ce_weight: 1 in the paper.
    """

    def __init__(self, *, gamma: float = 0.1, kd_weight: float = 2.25, ce_weight: float = 1.0):
        super().__init__(gamma=gamma, kd_weight=kd_weight, ce_weight=ce_weight)

    def divergence(self, z_s: Tensor, z_t: Tensor, progress: float) -> Tensor:
        return losses.wttm(z_s, z_t, gamma=self.gamma)


class DTKD(Method):
    r"""Dynamic temperatures beside plain KD, see `losses.dtkd`.

    .. math:: L = w_{ce} CE(z_s, y) + \min(\text{epoch} / 20, 1) \, [w_{dtkd} L_{DTKD} + w_{kd} L_{KD}]

    Source: Wei & Bai 2024; weights 3 and 1 and the warm-up as in the authors' code, which has 1 and .5 for resnet56 -> 20.

    Args:
        tau: temperature of KD, and mean of the two dynamic ones.
        dtkd_weight, kd_weight, ce_weight: of the three terms, each at least 0.
        warmup: epochs in which the weights of the first two grow from 0, at least 0. A run shorter than this never
            reaches the full weights.
        centred: take each sample's mean logit away before its temperatures are computed. A student whose logits drift far below
            zero otherwise gets a negative temperature, and the run stops; centred logits always give positive ones.
    """

    def __init__(
        self,
        *,
        tau: float = 4.0,
        centred: bool = False,
        dtkd_weight: float = 3.0,
        warmup: float = 20.0,
        kd_weight: float = 1.0,
        ce_weight: float = 1.0,
    ):
        super().__init__()
        self.tau, self.warmup, self.centred = tau, warmup, centred
        self.dtkd_weight, self.kd_weight, self.ce_weight = dtkd_weight, kd_weight, ce_weight

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch, progress: float) -> dict[str, Tensor]:
        z_s, z_t = student.logits, teacher.logits
        warm = warm_up(progress, self.warmup)
        dynamic = losses.dtkd(self._centre(z_s), self._centre(z_t), tau=self.tau)
        return {
            "dtkd": warm * self.dtkd_weight * dynamic,
            "kd": warm * self.kd_weight * losses.kd(z_s, z_t, tau=self.tau),
            "ce": self.ce_weight * F.cross_entropy(z_s, batch.y),
        }

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
        return losses.dtkd_temperatures(self._centre(z_s), self._centre(z_t), tau=self.tau)

    def _centre(self, z: Tensor) -> Tensor:
        return z - z.mean(1, keepdim=True) if self.centred else z


class CTKD(Tempered):
    r"""Curriculum temperature: KD whose temperature is trained to make the student's task harder, see `losses.ctkd`.

    .. math:: \tau = \tau_{min} + \tau_{range} \, \mathrm{sigmoid}(\theta), \quad
              \lambda = -\frac{1 - \cos(\pi \min(\text{epoch} / 10, 1))}{2}

    The student descends; theta gets lambda times its gradient, so it ascends, more and more in the first epochs.

    Source: Li et al., AAAI 2023, the "global" variant.
    Differs from the authors' code: lambda grows with every step instead of every epoch.
    The paper leaves open: the start of theta. As in the authors' code it is 1, a temperature of 15.6.

    Args:
        tau_min, tau_range: the temperature lies between tau_min and tau_min + tau_range.
        theta: where the learned number starts. It is trained at the student's learning rate and weight decay.
        ramp: epochs in which lambda goes from 0 to -1, at least 0.
    """

    def __init__(
        self, *, tau_min: float = 1.0, tau_range: float = 20.0, theta: float = 1.0, ramp: float = 10.0, **common: Any
    ):
        super().__init__(**common)
        self.span, self.ramp = {"tau_min": tau_min, "tau_range": tau_range}, ramp
        self.theta = nn.Parameter(torch.tensor(float(theta)))

    def divergence(self, z_s: Tensor, z_t: Tensor, progress: float) -> Tensor:
        reversal = -(1 - math.cos(math.pi * warm_up(progress, self.ramp))) / 2
        return losses.ctkd(z_s, z_t, theta=self.theta, gradient_weight=reversal, **self.span)

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
        tau = losses.learned_temperature(self.theta.detach(), **self.span)
        return tau, tau
