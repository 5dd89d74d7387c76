"""What every method is: a small module that says what is matched."""

from typing import Any

from torch import Tensor, nn

from kd_lib import losses
from kd_lib.shapes import Batch, Outputs, Pair


class Method(nn.Module):
    """What is matched between student and teacher.

    A method owns its hyper-parameters (keyword-only arguments of `__init__`), its own layers and memories, never the networks.

    Attributes:
        version: to raise when the meaning of the method changes; it is a part of every run's key.
        needs_teacher: whether it learns from a trained teacher (False: from nothing, or from peers).
        needs_maps, needs_preactivations, needs_attentions: whether it reads `Outputs.maps`, `.preactivations`, `.attentions`.
        regresses: whether it also works where a number is to be predicted, not a class.
        views: how many images `expand` makes of one.
        grows: the setting that names a network of which it trains parts beside the run's own; empty for none.
        relates_samples: whether a sample's loss depends on the rest of the batch, on memories of other samples, or on draws for a
            whole batch, so that several processes must not share a batch.
        setup_epochs: epochs of `setup` before the run's own epochs.
        setup_moves_student: whether the student trains in them; otherwise it is in evaluation mode without gradients.
    """

    version = 1
    needs_teacher = True
    needs_maps = False
    needs_preactivations = False
    needs_attentions = False
    regresses = False
    views = 1
    grows = ""
    relates_samples = False
    setup_epochs = 0
    setup_moves_student = False

    @classmethod
    def needs_live_teacher(cls) -> bool:
        """Whether a remembered teacher (logits and embedding of each training image) is not enough."""
        return cls.needs_maps or cls.needs_preactivations or cls.needs_attentions or cls.views > 1

    def connect(self, pair: Pair) -> None:
        """Make the layers and memories that depend on the two networks' sizes; called once, before training.

        Raises:
            ValueError: the method cannot work with this pair; says which pair and why.
        """

    def expand(self, batch: Batch) -> Batch:
        """The batch that both networks see: the given one, or `views` transformed copies of each image."""
        return batch

    def setup(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """Weighted loss terms of the initialisation phase, by name; what their gradient reaches is what trains."""
        raise NotImplementedError

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Weighted loss terms by name; their sum is the student's loss.

        Args:
            student, teacher: outputs for the same batch; the policy has already detached or adjusted the teacher's.
            batch: indices, images (after `expand`) and labels.
            progress: epochs done so far, fractional, without those of `setup`; for weights that warm up.
        """
        raise NotImplementedError

    def listens(self, progress: float) -> bool:
        """Whether `forward` reads the teacher at this point; where it does not, a frozen teacher is not asked."""
        return True

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[float | Tensor, float | Tensor]:
        """(tau_s, tau_t) at which the method compares the two; the tempered sharpness gap is measured there."""
        return 1.0, 1.0


class Alone(Method):
    """The student without a teacher: cross-entropy only."""

    needs_teacher = False
    regresses = True

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch, progress: float) -> dict[str, Tensor]:
        return {"ce": losses.supervised(student.logits, batch.y)}


class Matching(Method):
    r"""Cross-entropy, an optional KD term, and what a subclass matches.

    .. math:: L = w_{ce} \, CE(z_s, y) + w_{kd} \, \tau^2 KL(p_t \| p_s) + w \, L_{method}

    Two traditions must never share a column: CRD's tables train feature methods without a KD term (`kd_weight = 0`, the default
    here); SFTN's tables add KD at temperature 4 (`kd_weight = 0.9, ce_weight = 0.1`).

    Args:
        method_weight: w, the subclass's own default.
        ce_weight, kd_weight: of the two other terms.
        tau: temperature of the KD term.
    """

    def __init__(self, *, method_weight: float, ce_weight: float = 1.0, kd_weight: float = 0.0, tau: float = 4.0):
        super().__init__()
        self.method_weight, self.ce_weight, self.kd_weight, self.tau = method_weight, ce_weight, kd_weight, tau

    def listens(self, progress: float) -> bool:
        return bool(self.kd_weight or self.method_weight)

    def match(self, student: Outputs, teacher: Outputs, batch: Batch, progress: float) -> Tensor:
        """L_method, without its weight."""
        raise NotImplementedError

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch, progress: float) -> dict[str, Tensor]:
        z_s, y = student.logits, batch.y
        terms: dict[str, Any] = {"ce": self.ce_weight * losses.supervised(z_s, y)}
        if self.kd_weight:
            terms["kd"] = self.kd_weight * losses.imitation(z_s, teacher.logits, y, tau=self.tau)
        if self.method_weight:
            terms["match"] = self.method_weight * self.match(student, teacher, batch, progress)
        return terms
