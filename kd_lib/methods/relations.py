"""Methods that match relations between the samples of a batch. The batch must not be split, hence `relates_samples`."""

from typing import Any

from torch import Tensor

from kd_lib import losses
from kd_lib.methods.base import Matching
from kd_lib.methods.connect import maps_of
from kd_lib.shapes import Batch, Outputs, Pair


class SP(Matching):
    r"""Similarity-preserving distillation: the same similarities between samples, on the last map.

    .. math:: L = L_{Matching} + w \, \frac{1}{B^2} \|G^s - G^t\|_F^2

    Source: Tung and Mori 2019, section 3, `losses.sp`.

    Args:
        method_weight: w.
        common: `ce_weight`, `kd_weight`, `tau`, see `Matching`.
    """

    needs_maps = True
    relates_samples = True

    def __init__(self, *, method_weight: float = 3000.0, **common: Any):
        super().__init__(method_weight=method_weight, **common)

    def connect(self, pair: Pair) -> None:
        """Raises ValueError for a network without maps."""
        maps_of(pair)

    def match(self, student: Outputs, teacher: Outputs, batch: Batch, progress: float) -> Tensor:
        return losses.sp(student.maps[-1], teacher.maps[-1])


class CC(Matching):
    r"""Correlation congruence: the same Gaussian kernel between samples, on the embedding.

    .. math:: L = L_{Matching} + w \, \frac{1}{B^2} \|K^s - K^t\|_F^2

    Source: Peng et al. 2019, section 3, `losses.cc`.
    Differs from the paper: no linear layers between embedding and kernel; w is that of CRD's tables, whose loss of this name is
    another one. The kernel's entries lie in 0..1, so with this weight the term is far smaller than the cross-entropy.

    Args:
        method_weight: w.
        gamma: > 0, narrowness of the kernel.
        order: P >= 1, last power of its Taylor series.
        common: `ce_weight`, `kd_weight`, `tau`, see `Matching`.
    """

    relates_samples = True

    def __init__(self, *, method_weight: float = 0.02, gamma: float = 0.4, order: int = 2, **common: Any):
        super().__init__(method_weight=method_weight, **common)
        self.gamma, self.order = gamma, order

    def match(self, student: Outputs, teacher: Outputs, batch: Batch, progress: float) -> Tensor:
        return losses.cc(student.embedding, teacher.embedding, gamma=self.gamma, order=self.order)


class RKD(Matching):
    r"""Relational knowledge distillation: the same distances and angles between samples, on the embedding.

    .. math:: L = L_{Matching} + w \, (w_D L_{distance} + w_A L_{angle})

    Source: Park et al. 2019, section 3, `losses.rkd`.

    Args:
        method_weight: w, on both.
        distance_weight, angle_weight: w_D and w_A.
        common: `ce_weight`, `kd_weight`, `tau`, see `Matching`.
    """

    relates_samples = True

    def __init__(
        self, *, method_weight: float = 1.0, distance_weight: float = 25.0, angle_weight: float = 50.0, **common: Any
    ):
        super().__init__(method_weight=method_weight, **common)
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def match(self, student: Outputs, teacher: Outputs, batch: Batch, progress: float) -> Tensor:
        return losses.rkd(
            student.embedding,
            teacher.embedding,
            distance_weight=self.distance_weight,
            angle_weight=self.angle_weight,
        )


class PKT(Matching):
    r"""Probabilistic knowledge transfer: the same neighbours for each sample, on the embedding.

    .. math:: L = L_{Matching} + w \, \frac{1}{B^2} \sum_{ij} P^t_{ij} \log (P^t_{ij} / P^s_{ij})

    Source: Passalis and Tefas 2018, section 3, `losses.pkt`.

    Args:
        method_weight: w; it belongs to the mean over all B squared entries.
        common: `ce_weight`, `kd_weight`, `tau`, see `Matching`.
    """

    relates_samples = True

    def __init__(self, *, method_weight: float = 30000.0, **common: Any):
        super().__init__(method_weight=method_weight, **common)

    def match(self, student: Outputs, teacher: Outputs, batch: Batch, progress: float) -> Tensor:
        return losses.pkt(student.embedding, teacher.embedding)
