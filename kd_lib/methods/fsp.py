"""FSP: a start from which the student's stages build on each other as the teacher's do."""

from typing import Any

from torch import Tensor

from kd_lib import losses
from kd_lib.methods.base import Matching
from kd_lib.methods.connect import pair_stages
from kd_lib.shapes import Batch, Outputs, Pair


class FSP(Matching):
    r"""Flow of the solution procedure, before the run's own epochs; those are cross-entropy (and an optional KD term).

    .. math:: L_{setup} = w \sum_i \frac{1}{C_i C_{i+1}} \| G^t_i - G^s_i \|_F^2

    with G_i the inner products of the channels of two consecutive paired stages.

    Source: Yim et al. 2017, Eqs. 1 and 2, Algorithm 1, `losses.fsp`. It needs paired stages of the same widths.
    Differs from the paper: its matrices lead from the first to the last layer of each stage; here, as in CRD, from each stage
    to the next (without CRD's first matrix, from the stem, whose map is no stage). Its phase sums the entries of a matrix and has
    a learning rate of its own, 1e-3, then a tenth and a hundredth of that; here it is their mean and the run's peak rate. The
    phase has no other term, so w scales that rate: lower w where it diverges.

    Args:
        method_weight: w, in the initialisation phase.
        setup_epochs: length of the initialisation phase, in which the student trains; 30 as in CRD.
        common: `ce_weight`, `kd_weight`, `tau` of the epochs after it, see `Matching`.
    """

    needs_maps = True
    setup_moves_student = True

    def __init__(self, *, method_weight: float = 1.0, setup_epochs: int = 30, **common: Any):
        super().__init__(method_weight=0.0, **common)  # nothing is matched after the initialisation phase
        self.setup_weight, self.setup_epochs = method_weight, setup_epochs

    def connect(self, pair: Pair) -> None:
        """Raises ValueError for fewer than two paired stages, or paired stages of different widths."""
        self.stages = pair_stages(pair)
        widths_s = [pair.student.maps[i].shape[1] for i, _ in self.stages]
        widths_t = [pair.teacher.maps[j].shape[1] for _, j in self.stages]
        if len(self.stages) < 2 or widths_s != widths_t:
            raise ValueError(
                f"fsp compares inner products of channels, so it needs two or more stages of equal widths: "
                f"student {pair.names[0]} has {widths_s} where teacher {pair.names[1]} has {widths_t}."
            )

    def setup(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        maps_s = [student.maps[i] for i, _ in self.stages]
        maps_t = [teacher.maps[j] for _, j in self.stages]
        return {"match": self.setup_weight * losses.fsp(maps_s, maps_t)}
