"""Methods that match feature maps, stage by stage."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_lib import losses
from kd_lib.methods.base import Matching
from kd_lib.methods.connect import Regressor, pair_stages
from kd_lib.shapes import Batch, Outputs, Pair


class FitNet(Matching):
    r"""Hints: the student's middle map, through a regressor, should be the teacher's.

    .. math:: L = L_{Matching} + w \, \mathrm{mean} (r(f^s) - f^t)^2

    Source: FitNets (Romero et al. 2015) section 2.2, `losses.fitnet`; layers of r: `connect.Regressor`.
    Differs from the paper: trained beside the cross-entropy from the start, as in CRD's tables, instead of a stage of its own.
    The paper leaves open: which stage is the middle one. Of the stages that meet (`pair_stages`) the middle one, the earlier of
    two. The regressor ends in a ReLU, so of a map with negative values (the early stages of a wide ResNet) it can learn half.

    Args:
        method_weight: w.
        common: `ce_weight`, `kd_weight`, `tau`, see `Matching`.
    """

    needs_maps = True

    def __init__(self, *, method_weight: float = 100.0, **common: Any):
        super().__init__(method_weight=method_weight, **common)

    def connect(self, pair: Pair) -> None:
        """Raises ValueError for a network without maps."""
        stages = pair_stages(pair)
        self.i_s, self.i_t = stages[(len(stages) - 1) // 2]
        self.regressor = Regressor(pair.student.maps[self.i_s].shape, pair.teacher.maps[self.i_t].shape)

    def match(self, student: Outputs, teacher: Outputs, batch: Batch, progress: float) -> Tensor:
        return losses.fitnet(self.regressor(student.maps[self.i_s]), teacher.maps[self.i_t])


class AT(Matching):
    r"""Attention transfer: the student should look where the teacher looks, at every stage.

    .. math:: L = L_{Matching} + w \sum_i \mathrm{mean} (Q(f^s_i) - Q(f^t_i))^2

    Source: Zagoruyko and Komodakis 2017, Eq. 2, `losses.at`; stages: `pair_stages`.

    Args:
        method_weight: w; beta / 2 of the paper times batch and pixels. The paper has 500, CRD's tables 1000.
        common: `ce_weight`, `kd_weight`, `tau`, see `Matching`.
    """

    needs_maps = True

    def __init__(self, *, method_weight: float = 1000.0, **common: Any):
        super().__init__(method_weight=method_weight, **common)

    def connect(self, pair: Pair) -> None:
        """Raises ValueError for a network without maps."""
        self.stages = pair_stages(pair)

    def match(self, student: Outputs, teacher: Outputs, batch: Batch, progress: float) -> Tensor:
        return sum(losses.at(student.maps[i], teacher.maps[j]) for i, j in self.stages)


class NST(Matching):
    r"""Neuron selectivity transfer: the same set of channel maps, in whatever order, at every stage.

    .. math:: L = L_{Matching} + w \sum_i MMD^2(f^s_i, f^t_i)

    Source: Huang and Wang 2017, section 4, `losses.nst`; stages: `pair_stages`.
    Differs from the paper: every stage, as in CRD's tables, instead of the last alone; w is lambda / 2 there.

    Args:
        method_weight: w.
        common: `ce_weight`, `kd_weight`, `tau`, see `Matching`.
    """

    needs_maps = True

    def __init__(self, *, method_weight: float = 50.0, **common: Any):
        super().__init__(method_weight=method_weight, **common)

    def connect(self, pair: Pair) -> None:
        """Raises ValueError for a network without maps."""
        self.stages = pair_stages(pair)

    def match(self, student: Outputs, teacher: Outputs, batch: Batch, progress: float) -> Tensor:
        return sum(losses.nst(student.maps[i], teacher.maps[j]) for i, j in self.stages)


class VID(Matching):
    r"""Variational information distillation: the student's maps should tell as much as possible about the teacher's.

    .. math:: L = L_{Matching} + w \sum_i \mathrm{mean}\ \frac{1}{2}
              \left[ \frac{(\mu_i(f^s_i) - f^t_i)^2}{\sigma_i^2} + \log \sigma_i^2 \right]

    Source: Ahn et al. 2019, section 2, `losses.vid`; stages: `pair_stages`; mu and sigma: `Prediction`.
    The paper leaves open: maps of unequal sizes. The larger is average-pooled (`losses.same_size`).

    Args:
        method_weight: w.
        common: `ce_weight`, `kd_weight`, `tau`, see `Matching`.
    """

    needs_maps = True

    def __init__(self, *, method_weight: float = 1.0, **common: Any):
        super().__init__(method_weight=method_weight, **common)

    def connect(self, pair: Pair) -> None:
        """Raises ValueError for a network without maps."""
        self.stages = pair_stages(pair)
        channels = [(pair.student.maps[i].shape[1], pair.teacher.maps[j].shape[1]) for i, j in self.stages]
        self.predictions = nn.ModuleList(Prediction(c_s, c_t) for c_s, c_t in channels)

    def match(self, student: Outputs, teacher: Outputs, batch: Batch, progress: float) -> Tensor:
        total = 0.0
        for predict, (i, j) in zip(self.predictions, self.stages, strict=True):
            f_s, f_t = losses.same_size(student.maps[i], teacher.maps[j])
            total = total + losses.vid(predict(f_s), f_t, predict.variance())
        return total


class Prediction(nn.Module):
    r"""VID's Gaussian: its mean is three 1x1 convolutions of the student's map, its variances are a parameter a channel.

    .. math:: \sigma_c^2 = \log(1 + e^{a_c}) + 10^{-5}

    The paper leaves open: width and activation between the convolutions. The teacher's width, and ReLU.

    Args:
        c_s, c_t: channels of student and teacher.
    """

    SMALLEST, START = 1e-5, 5.0

    def __init__(self, c_s: int, c_t: int):
        super().__init__()
        layers = [nn.Conv2d(c_in, c_t, 1, bias=False) for c_in in (c_s, c_t, c_t)]
        self.mean = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        self.a = nn.Parameter(torch.full((c_t,), math.log(math.expm1(self.START - self.SMALLEST))))

    def forward(self, f_s: Tensor) -> Tensor:
        return self.mean(f_s)

    def variance(self) -> Tensor:
        return F.softplus(self.a) + self.SMALLEST
