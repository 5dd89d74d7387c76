"""CRD: contrast between embeddings of the two networks, with a memory of the whole training set."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_lib import losses
from kd_lib.methods.base import Matching
from kd_lib.shapes import Batch, Outputs, Pair


class CRD(Matching):
    r"""Contrastive representation distillation.

    .. math:: L = CE(z_s, y) + w \, [ L_{NCE}(g_s, m_t) + L_{NCE}(g_t, m_s) ]

    g are the two embeddings through a linear head each, of length 1; m the memories: for every training image a running average of g,
    updated by `remember` after each step. L_NCE (`losses.crd`) tells the image's own row in the other network's memory from
    `negatives` drawn rows. Both heads train; a row of a memory carries no gradient.

    Source: Tian et al. 2020, Eq. 18; temperature, negatives, dimension and weight of its CIFAR-100 tables, which have no KD term.
    The paper leaves open: whether the positive comes from the memory too, as here and in the authors' published experiments. With
    the other network's current embedding in its place, students on digits100 ended at 2 to 21% (55 to 60% alone).
    Differs from the paper: negatives are drawn with replacement, and at most as many as there are training images, because more
    would only repeat the same rows. Their classes are those seen so far: in the first epoch a row whose image has not come yet
    counts as another class, and is still random.

    Args:
        negatives: N, rows a sample is told from; 16384 in the paper.
        negatives_from: "other_classes" (the better sampling of the paper's ablation, that of its tables) or "other_images".
        nce_tau: temperature of the contrast.
        memory_momentum: share of the old row that stays, in [0, 1).
        features: length of the heads' outputs.
        **common: weights of `Matching`, and the temperature `tau` of its KD term.
    Raises:
        ValueError: a setting out of its range.
    """

    relates_samples = True  # by the memories: every device would keep, and draw from, its own

    def __init__(
        self,
        *,
        method_weight: float = 0.8,
        negatives: int = 16384,
        negatives_from: Literal["other_classes", "other_images"] = "other_classes",
        nce_tau: float = 0.07,
        memory_momentum: float = 0.5,
        features: int = 128,
        **common: Any,
    ):
        super().__init__(method_weight=method_weight, **common)
        if min(negatives, features) < 1 or not 0 <= memory_momentum < 1:
            raise ValueError(
                "CRD needs negatives and features of at least 1 and a memory_momentum in [0, 1), "
                f"got {negatives}, {features} and {memory_momentum}."
            )
        self.negatives, self.negatives_from, self.nce_tau = negatives, negatives_from, nce_tau
        self.memory_momentum, self.features = memory_momentum, features

    def connect(self, pair: Pair) -> None:
        if pair.n_train < 2:
            raise ValueError(f"CRD of {pair.names[0]} from {pair.names[1]} needs at least two training images.")
        self.head_s = nn.Linear(pair.student.embedding.shape[1], self.features)
        self.head_t = nn.Linear(pair.teacher.embedding.shape[1], self.features)
        for name in ("memory_s", "memory_t"):
            self.register_buffer(name, F.normalize(torch.randn(pair.n_train, self.features), dim=1))
        self.register_buffer(
            "z", torch.zeros(2)
        )  # constants of the student's and the teacher's side; 0: not yet estimated
        self.register_buffer("labels", torch.full((pair.n_train,), -1))  # -1: not yet seen

    def match(self, student: Outputs, teacher: Outputs, batch: Batch, progress: float) -> Tensor:
        g_s = F.normalize(self.head_s(student.embedding.float()), dim=1)
        g_t = F.normalize(self.head_t(teacher.embedding.float()), dim=1)
        self.labels[batch.index] = batch.y
        drawn = self._draw(batch)
        loss = self._contrast(0, g_s, self.memory_t, batch, drawn) + self._contrast(1, g_t, self.memory_s, batch, drawn)
        self.memory_s = remember(self.memory_s, batch.index, g_s, momentum=self.memory_momentum)
        self.memory_t = remember(self.memory_t, batch.index, g_t, momentum=self.memory_momentum)
        return loss

    def _draw(self, batch: Batch) -> Tensor:
        """[B, N], positions of the negatives, the same for both sides."""
        generator = torch.Generator(device=batch.y.device).manual_seed(batch.seed)
        groups, own = self.labels, batch.y
        if self.negatives_from == "other_images":
            groups, own = torch.arange(len(self.labels), device=batch.index.device), batch.index
        return draw_others(groups, own, count=min(self.negatives, len(groups)), generator=generator)

    def _contrast(self, side: int, g: Tensor, memory: Tensor, batch: Batch, drawn: Tensor) -> Tensor:
        # one look-up in the product of everything: exact, and far faster than to gather B x N rows of the memory
        cosines = (g @ memory.T).gather(1, torch.cat([batch.index[:, None], drawn], dim=1))
        positive, negative = cosines[:, 0], cosines[:, 1:]
        sizes = {"n_train": len(memory), "tau": self.nce_tau}
        # `where` instead of `if`: asking for the value would wait for an accelerator in every step.
        self.z[side] = torch.where(self.z[side] > 0, self.z[side], losses.crd_constant(negative, **sizes))
        return losses.crd(positive, negative, z=self.z[side], **sizes)


def draw_others(groups: Tensor, own: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
    """Uniform draws, with replacement, from the members of all other groups.

    Sorted by group, the members of one group are neighbours: a draw among the others is one among len(groups) minus its size, moved
    past it where it falls there or behind. So no draw is ever rejected.

    Args:
        groups: [M], the group of each member.
        own: [B], the groups not to draw from; each has members, and not all.
        count: draws for each.
        generator: the source of randomness, on the device of `groups`.
    Returns:
        [B, count], positions in `groups`.
    """
    order = groups.argsort(stable=True)
    ranked = groups[order]
    begin = torch.searchsorted(ranked, own)[:, None]
    size = torch.searchsorted(ranked, own, right=True)[:, None] - begin
    uniform = torch.rand(len(own), count, generator=generator, device=groups.device)
    place = (uniform * (len(groups) - size)).long()
    return order[torch.where(place < begin, place, place + size)]


@torch.no_grad()
def remember(memory: Tensor, index: Tensor, g: Tensor, *, momentum: float) -> Tensor:
    r"""The memory after a step: rows `index` moved towards g and brought back to length 1.

    .. math:: m_i \leftarrow \frac{\mu m_i + (1 - \mu) g_i}{\| \mu m_i + (1 - \mu) g_i \|}

    A new tensor: the gradient of the step that is under way still reads the old one.
    """
    rows = momentum * memory[index] + (1 - momentum) * g
    return memory.index_copy(0, index, F.normalize(rows, dim=1))
