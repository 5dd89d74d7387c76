"""SFTN: a teacher that is trained together with branches of its future student."""

from typing import Literal

import torch
from torch import Tensor, nn

from kd_lib import losses, models
from kd_lib.methods.base import Method
from kd_lib.methods.connect import Regressor, check_states, pair_layers, pair_stages
from kd_lib.shapes import Batch, Outputs, Pair


class States(nn.Module):
    """Hidden states [B, L, D] of one width turned into another's; without biases, so that padding stays 0."""

    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.linear, self.norm = nn.Linear(d_in, d_out, bias=False), nn.LayerNorm(d_out, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        return self.norm(self.linear(h))


class Branch(nn.Module):
    """A map of the teacher, turned into one of the student's, and the rest of the student's way to its logits.

    Args:
        f_t: a map of the teacher.
        f_s: the student's map in its place.
        student: a fresh network of the student's kind; what comes before `stage` is taken out of it.
        stage: the student's stage that reads `f_s`.
    """

    def __init__(self, f_t: Tensor, f_s: Tensor, student: nn.Module, stage: int):
        super().__init__()
        self.transform = Regressor(f_t.shape, f_s.shape) if f_t.ndim == 4 else States(f_t.shape[2], f_s.shape[2])
        self.student, self.stage = student, stage
        named = dict(student.eval().named_parameters())  # eval: one probe must not enter batch norms' averages
        reached = torch.autograd.grad(student.forward_from(f_s, stage).logits.sum(), named.values(), allow_unused=True)
        for name in [n for n, gradient in zip(named, reached, strict=True) if gradient is None]:
            owner, _, own = name.rpartition(".")
            setattr(student.get_submodule(owner), own, None)
        student.train()

    def forward(self, f_t: Tensor) -> Tensor:
        """Logits [B, C]. A branch is a network, so it computes in the number format that the map came in."""
        with torch.autocast(f_t.device.type, torch.bfloat16, enabled=f_t.dtype == torch.bfloat16):
            return self.student.forward_from(self.transform(f_t), self.stage).logits


class SFTN(Method):
    r"""Student-aware training of a teacher. The network that trains in such a run **is** the teacher; students come later.

    .. math:: L = w_T \, CE(q_T, y) + w_{KL} \frac{1}{N - 1} \sum_i KL(q^i_R \| q_T)
              + w_{CE} \frac{1}{N - 1} \sum_i CE(q^i_R, y)

    Source: SFTN Eqs. 3 to 6 and section 4.2.1. A branch begins at a map of the teacher, turned into the shape of the
    student's map in its place: a 3x3 convolution to shrink it, a 4x4 transposed one to let it grow, 1x1 otherwise
    (section 3.1; `methods.connect.Regressor`, batch norm and ReLU included). The rest of the student follows.
    Differs from the paper: where the two networks have different numbers of stages, it divides both into N blocks "based on
    the depth of layers and the feature map sizes". Here `pair_stages` picks N stages of each whose maps differ least in size;
    the last of these pairs has no branch, as the paper's last block. Networks of as many stages meet stage by stage, as in the paper.
    Of transformers, which the paper does not have, the student's layers are the blocks; they meet the teacher's as in `pair_layers`,
    and a linear layer with a layer norm is the transform. Where a number is predicted, squared errors stand for CE and KL.
    The paper leaves open: whether branches share the student's blocks. Here each has its own; they are dropped after training.
    "Fine-tuned" (section 4.6): start from a trained teacher, train the branches alone for `setup_epochs`, then everything. The
    paper leaves open: the learning rates. Here the run's own, constant in the first phase.

    Args:
        student: the network that the teacher is to become easy for, a name in `models.MODELS`; it has no default.
        ce_weight, branch_kl_weight, branch_ce_weight: w_T, w_KL, w_CE: 1, 3, 1 on CIFAR-100, 1, 1, 1 on ImageNet. A larger
            w_KL makes the teacher worse and its students more like it.
        tau: temperature of the KL.
        direction: "branch_to_teacher" is KL(q_R || q_T), as printed.
        setup_epochs: epochs in which the branches train alone; 30 in the fine-tuned variant.
    """

    needs_teacher = False
    needs_maps = True
    regresses = True
    grows = "student"

    def __init__(
        self,
        *,
        student: str = "",
        ce_weight: float = 1.0,
        branch_kl_weight: float = 3.0,
        branch_ce_weight: float = 1.0,
        tau: float = 1.0,
        direction: Literal["branch_to_teacher", "teacher_to_branch"] = "branch_to_teacher",
        setup_epochs: int = 0,
    ):
        super().__init__()
        self.student, self.setup_epochs = student, setup_epochs
        self.ce_weight, self.branch_kl_weight, self.branch_ce_weight = ce_weight, branch_kl_weight, branch_ce_weight
        self.tau, self.direction = tau, direction
        self.branches = nn.ModuleDict()

    def connect(self, pair: Pair) -> None:
        """Grow the branches; `pair.student` are outputs of the network in training.

        Raises:
            ValueError: no or an unknown `student`; a pair of networks with fewer than two stages to share.
        """
        name, teacher = pair.names[0], pair.student
        if not self.student:
            raise ValueError(f"SFTN must know {name}'s student: settings={{'student': 'resnet8'}} or another network.")

        n_classes, texts = teacher.logits.shape[1], teacher.maps[0].ndim == 3
        # what reads pixels or tokens is taken out of a branch, so any will do
        if texts:
            sizes, example = {"max_length": 8}, torch.full((1, 8), 2)
        else:
            sizes, example = {"in_channels": 3}, torch.zeros(1, 3, *pair.image_size)

        def fresh() -> nn.Module:
            return models.build(self.student, n_classes=n_classes, **sizes)

        with torch.no_grad():
            student = fresh().eval()(example)
        pair = pair._replace(names=(self.student, name), student=student, teacher=teacher)
        stages = self._stages(pair, texts)
        if not stages:
            raise ValueError(
                f"student {self.student}, teacher {name}: a branch needs two stages that both networks have."
            )
        for i_s, i_t in stages:
            # keyed by the teacher's stage, which says at which map it begins
            self.branches[str(i_t)] = Branch(teacher.maps[i_t], student.maps[i_s], fresh(), i_s if texts else i_s + 1)

    def _stages(self, pair: Pair, texts: bool) -> list[tuple[int, int]]:
        if not texts:
            return pair_stages(pair)[:-1]
        check_states(pair)
        return pair_layers(pair, "skip")[:-1]

    def _branch_terms(self, teacher: Outputs, y: Tensor) -> dict[str, Tensor]:
        z_branches = [branch(teacher.maps[int(i_t)]) for i_t, branch in self.branches.items()]
        if y.is_floating_point():
            kl = torch.stack([losses.mse(z, teacher.logits) for z in z_branches]).mean()
        else:
            kl = losses.branch_kl(z_branches, teacher.logits, tau=self.tau, direction=self.direction)
        return {
            "sftn_kl": self.branch_kl_weight * kl,
            "sftn_ce": self.branch_ce_weight * losses.branch_ce(z_branches, y),
        }

    def setup(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        return self._branch_terms(student, batch.y)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch, progress: float) -> dict[str, Tensor]:
        return {
            "ce": self.ce_weight * losses.supervised(student.logits, batch.y),
            **self._branch_terms(student, batch.y),
        }
