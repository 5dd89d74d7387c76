"""OFD, also called OH: the overhaul of feature distillation."""

from typing import Any

import torch
from torch import Tensor, nn

from kd_lib import losses
from kd_lib.methods.base import Matching
from kd_lib.methods.connect import Regressor, pair_stages
from kd_lib.shapes import Batch, Outputs, Pair


class OFD(Matching):
    r"""Maps before activation, the teacher's cut at a margin, compared by the partial L2 distance.

    .. math:: L = L_{Matching} + w \sum_{i=1}^{n} 2^{i-n} \, OFD(r_i(f^s_i), f^t_i; m_i)

    with f the maps before activation of the n paired stages, r a connector (1x1 convolution and batch norm), and m each
    channel's mean negative value, estimated once from the images of `connect`.

    Source: Heo et al. 2019 (ICCV), section 3, `losses.ofd`; w is the authors' for CIFAR-100, of a sum over C, H, W.
    The paper leaves open: the halving from each stage to the one before it, as in the authors' code; stages of unequal sizes,
    which `Regressor` brings to the teacher's.
    Differs from the paper: the teacher is in evaluation mode. The paper keeps its batch norms in training mode on purpose, and
    reports it as better (Table 8); a frozen teacher here is the same function for every method.

    Args:
        method_weight: w.
        common: `ce_weight`, `kd_weight`, `tau`, see `Matching`.
    """

    needs_preactivations = True

    def __init__(self, *, method_weight: float = 1e-3, **common: Any):
        super().__init__(method_weight=method_weight, **common)

    def connect(self, pair: Pair) -> None:
        self.stages = pair_stages(pair)
        f_s, f_t = pair.student.preactivations, pair.teacher.preactivations
        self.connectors = nn.ModuleList(Regressor(f_s[i].shape, f_t[j].shape, relu=False) for i, j in self.stages)
        self.channels = [f_t[j].shape[1] for _, j in self.stages]
        self.register_buffer("margins", torch.cat([losses.negative_mean(f_t[j]) for _, j in self.stages]))

    def match(self, student: Outputs, teacher: Outputs, batch: Batch, progress: float) -> Tensor:
        stages = [
            losses.ofd(connector(student.preactivations[i]), teacher.preactivations[j], margin=margin)
            for connector, (i, j), margin in zip(
                self.connectors, self.stages, self.margins.split(self.channels), strict=True
            )
        ]
        return sum(loss / 2**back for back, loss in enumerate(reversed(stages)))
