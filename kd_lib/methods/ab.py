"""Activation boundaries: a start from which the student's neurons fire where the teacher's do."""

from typing import Any

from torch import Tensor, nn

from kd_lib import losses
from kd_lib.methods.base import Matching
from kd_lib.methods.connect import Regressor, pair_stages
from kd_lib.shapes import Batch, Outputs, Pair


class AB(Matching):
    r"""Distillation of activation boundaries, before the run's own epochs; those are cross-entropy (and an optional KD term).

    .. math:: L_{setup} = w \sum_{i=1}^{n} 2^{i-n} \, AB(r_i(f^s_i), f^t_i)

    with f the maps before activation of the n paired stages and r a connector: 1x1 convolution and batch norm.

    Source: Heo et al. 2019 (AAAI), Eq. 7, `losses.ab`.
    The paper leaves open: w and the halving from each stage to the one before it, both as in the authors' published CIFAR-10
    experiment; stages of unequal sizes, which `Regressor` brings to the teacher's; the length of the phase, CRD's 30 epochs.
    Differs from the paper: the same experiment then trains with KD alone (tau 3): `kd_weight=1, ce_weight=0, tau=3`.

    Args:
        method_weight: w, in the initialisation phase.
        margin: mu > 0, how far from zero a neuron must be on its side before it costs nothing.
        setup_epochs: length of the initialisation phase, in which the student trains.
        common: `ce_weight`, `kd_weight`, `tau` of the epochs after it, see `Matching`.
    """

    needs_preactivations = True
    setup_moves_student = True

    def __init__(self, *, method_weight: float = 3e-3, margin: float = 1.0, setup_epochs: int = 30, **common: Any):
        super().__init__(method_weight=0.0, **common)  # nothing is matched after the initialisation phase
        self.setup_weight, self.margin, self.setup_epochs = method_weight, margin, setup_epochs

    def connect(self, pair: Pair) -> None:
        self.stages = pair_stages(pair)
        f_s, f_t = pair.student.preactivations, pair.teacher.preactivations
        self.connectors = nn.ModuleList(Regressor(f_s[i].shape, f_t[j].shape, relu=False) for i, j in self.stages)

    def setup(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        stages = [
            losses.ab(connector(student.preactivations[i]), teacher.preactivations[j], margin=self.margin)
            for connector, (i, j) in zip(self.connectors, self.stages, strict=True)
        ]
        return {"match": self.setup_weight * sum(loss / 2**back for back, loss in enumerate(reversed(stages)))}
