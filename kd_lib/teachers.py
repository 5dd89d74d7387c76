"""Who moves: the teacher policies.

A policy answers three questions of the training loop, once a step:
`outputs`, what does the teacher say about this batch; `target`, what of it does the student learn from;
`terms`, what does the teacher itself learn from. Its parameters, if any, are trained at its own `lr`.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from kd_lib import losses
from kd_lib.adapters import Houlsby, LoRA, ScaledParallel
from kd_lib.errors import unknown
from kd_lib.models.transformer import Bert
from kd_lib.shapes import Outputs


class Teacher(nn.Module):
    """What all policies share.

    Args:
        network: the trained teacher.
        label_adjustment: let the student see the teacher's logits with the true class swapped to the top (PESF-KD v2 section 3.1).
    Attributes:
        backbone_moves: whether what trains is the teacher's own weights or sits among them. Where it does not, the loop runs a
            folded, frozen copy of the network (or remembers its outputs) and `outputs` gets them ready-made.
        from_scratch: whether it is a group of untrained networks instead of a trained teacher.
        lr: peak learning rate of the teacher's trainable weights (None: the student's); follows the student's schedule.
    """

    version = 1
    backbone_moves = False
    from_scratch = False
    lr = 0.0

    def __init__(self, network: nn.Module, *, label_adjustment: bool = False):
        super().__init__()
        self.label_adjustment = label_adjustment

    def forward(self, x: Tensor) -> Outputs:
        """What a moving backbone says about a batch; never called where it does not move."""
        return self.network(x)

    def outputs(self, frozen: Outputs) -> Outputs:
        """The teacher's answer, given the frozen network's outputs (or, for a moving backbone, the network's own)."""
        return frozen

    def target(self, teacher: Outputs, y: Tensor) -> Outputs:
        """What the student learns from: the teacher's outputs, label-adjusted where asked for."""
        if not self.label_adjustment or y.is_floating_point():
            return teacher
        return teacher._replace(logits=losses.label_adjustment(teacher.logits, y))

    def terms(self, student: Outputs, teacher: Outputs, y: Tensor) -> dict[str, Tensor]:
        """Weighted loss terms of the teacher itself, by name."""
        return {}


class Frozen(Teacher):
    """The teacher of Hinton et al. 2015: evaluation mode, no gradients, nothing moves."""


class FineTune(Teacher):
    r"""FT-KD: every weight of the teacher trains beside the student.

    .. math:: L = L_{student}(z_s, z_t) + w \, CE(z_t, y)

    The student's loss is **not detached** from the teacher: its gradient reaches the teacher's weights; there is no
    student-to-teacher KL term. Source: PESF-KD v2 section 3.1 (with label adjustment), v1 section 3.1 ("w/ fine-tuned teacher").
    The paper leaves open: batch norm. The teacher is in training mode, as in any fine-tuning.

    Args:
        lr: peak learning rate of the teacher, 1e-3 in both papers.
        teacher_ce_weight: w. The appendix of both papers mentions 0.5 for it.
    """

    backbone_moves = True

    def __init__(
        self, network: nn.Module, *, lr: float = 1e-3, teacher_ce_weight: float = 1.0, label_adjustment: bool = False
    ):
        super().__init__(network, label_adjustment=label_adjustment)
        self.network, self.lr, self.teacher_ce_weight = network, lr, teacher_ce_weight

    def terms(self, student: Outputs, teacher: Outputs, y: Tensor) -> dict[str, Tensor]:
        return {"teacher_ce": self.teacher_ce_weight * losses.supervised(teacher.logits, y)}


class StudentFriendly(Teacher):
    r"""What the adapters of PESF-KD learn beside the student, wherever they sit on the frozen teacher.

    v1 (section 3.2, appendix): L = L_student(z_s, z_ta) + 0.5 CE(z_ta, y), the student's loss not detached.

    v2 (section 3.2): the student learns from sg(adjusted z_ta); the adapter from

    .. math:: \alpha \tau^2 KL(sg(p_s) \| p_{ta}) + (1 - \alpha) CE(z_{ta}, y)

    Where a number is predicted and not a class, squared errors stand for KL and CE.

    Args:
        variant: "v1" or "v2", the two versions of the paper.
        rank: width of the bottleneck.
        lr: peak learning rate of the adapter, 1e-4 in both papers; for BERT they search 2e-6, 1e-5 and 2e-5.
        kd_weight, tau: weight and temperature of the student-to-teacher KL (v2).
        ce_weight: weight of the adapter's cross-entropy in v2.
        teacher_ce_weight: overrides the weight of the adapter's cross-entropy: v1 0.5, v2 `ce_weight` (its appendix still says 0.5).
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        variant: Literal["v1", "v2"] = "v2",
        rank: int = 32,
        lr: float = 1e-4,
        kd_weight: float = 0.9,
        ce_weight: float = 0.1,
        tau: float = 4.0,
        teacher_ce_weight: float | None = None,
        label_adjustment: bool = False,
    ):
        super().__init__(network, label_adjustment=label_adjustment)
        self.variant, self.rank, self.lr = variant, rank, lr
        self.kd_weight, self.tau = kd_weight, tau
        own_weight = {"v1": 0.5, "v2": ce_weight}[variant]
        self.teacher_ce_weight = own_weight if teacher_ce_weight is None else teacher_ce_weight

    def target(self, teacher: Outputs, y: Tensor) -> Outputs:
        target = super().target(teacher, y)
        if self.variant == "v1":
            return target
        layers = (tuple(tensor.detach() for tensor in tensors) for tensors in target[2:])
        return Outputs(target.logits.detach(), target.embedding.detach(), *layers)

    def terms(self, student: Outputs, teacher: Outputs, y: Tensor) -> dict[str, Tensor]:
        terms = {"teacher_ce": self.teacher_ce_weight * losses.supervised(teacher.logits, y)}
        if self.variant == "v2":
            # the roles are exchanged: here the adapted teacher learns from the student
            z_s, z_t = teacher.logits, student.logits.detach()
            terms["teacher_kl"] = self.kd_weight * losses.imitation(z_s, z_t, y, tau=self.tau)
        return terms


class Adapter(StudentFriendly):
    r"""PESF-KD: an adapter on a frozen teacher trains beside the student.

    The paper leaves open: the adapter's place. "logits" is the default, because the papers' parameter column grows by the same
    0.05 MB for teachers with 64 and with 512 features, and only an adapter on the 100 logits grows alike for both. (At the
    papers' rank of 32 it has 0.026 MB; 0.051 MB would be rank 64.)

    Other structures (v1 Table 5, v2 Table 14): "lora" and "parallel" read the embedding beside the frozen classifier and add to
    its logits. The paper leaves open: what they sit on; the classifier is the one layer that every teacher here has.

    Args:
        kind: "houlsby" (the papers' own), "lora" or "parallel" (He et al. 2022, s = 4).
        where: the adapter's input, "logits" or "embedding" (then the teacher's classifier reads the adapted embedding).
            The two structures beside the classifier read its input, so they need "embedding".
        common: `variant`, `rank`, `lr`, weights and `tau`, see `StudentFriendly`.
    Raises:
        ValueError: an unknown kind; "lora" or "parallel" on the logits.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        where: Literal["logits", "embedding"] = "logits",
        kind: Literal["houlsby", "lora", "parallel"] = "houlsby",
        **common: Any,
    ):
        super().__init__(network, **common)
        self.where, self.kind = where, kind
        classifier = network.classifier
        self.adapter = _adapter(kind, where, classifier, self.rank)
        self._classifier = (classifier,)  # in a tuple: it stays frozen, so it is no submodule of ours

    def outputs(self, frozen: Outputs) -> Outputs:
        if self.kind != "houlsby":
            return frozen._replace(logits=frozen.logits + self.adapter(frozen.embedding))
        if self.where == "logits":
            return frozen._replace(logits=self.adapter(frozen.logits))
        embedding = self.adapter(frozen.embedding)
        (classifier,) = self._classifier
        logits = F.linear(embedding, classifier.weight.detach(), classifier.bias.detach())
        return frozen._replace(logits=logits, embedding=embedding)


def _adapter(kind: str, where: str, classifier: nn.Linear, rank: int) -> nn.Module:
    d, c = classifier.in_features, classifier.out_features
    if kind == "houlsby":
        return Houlsby(c if where == "logits" else d, rank)
    beside = {"lora": LoRA, "parallel": ScaledParallel}
    if kind not in beside:
        raise unknown("kind of adapter", kind, ("houlsby", *beside))
    if where != "embedding":
        raise ValueError(f"kind {kind!r} reads the classifier's input: it needs where='embedding', got {where!r}.")
    return beside[kind](d, c, rank)


class LayerAdapter(StudentFriendly):
    r"""PESF-KD with adapters inside the layers of a transformer: two a layer, on the outputs of attention and feed-forward.

    .. math:: h \leftarrow \mathrm{LayerNorm}(x + a(W h + b)), \quad a(u) = u + f(u W_{down}) W_{up}

    with x the sublayer's input and W h + b its last linear layer. Source: Houlsby et al. 2019, section 2.1, the adapter that
    PESF-KD cites. The papers leave open: where their adapter sits in BERT. Their costs (66 million parameters to train, those of
    the student alone; 1.05 times the time of KD, v1 Table 4) speak for one on the logits, `Adapter`: the backward pass of these
    here goes through the whole teacher. v2 calls it "changing the teachers' output logits" (A.3.2).
    Differs from the paper: Houlsby et al. train layer norms as well, and have biases; here nothing else of the teacher moves.

    Args:
        network: a transformer. It stays in evaluation mode, so that it has no dropout.
        common: `variant`, `rank`, `lr`, weights and `tau`, see `StudentFriendly`.
    Raises:
        ValueError: a network that is no transformer.
    """

    backbone_moves = True

    def __init__(self, network: nn.Module, **common: Any):
        super().__init__(network, **common)
        if not isinstance(network, Bert):
            raise ValueError(f"policy 'layer_adapter' needs a transformer as teacher, not {type(network).__name__}.")
        network.eval().requires_grad_(False)
        sublayers = [part.output for layer in network.stages for part in (layer.attention, layer)]
        self.adapters = nn.ModuleList(Houlsby(part.dense.out_features, self.rank) for part in sublayers)
        for part, adapter in zip(sublayers, self.adapters, strict=True):
            part.dense = nn.Sequential(part.dense, adapter)
        self._network = (network,)  # in a tuple: only the adapters are submodules, so only they train and are kept

    @property
    def network(self) -> nn.Module:
        """The teacher with its adapters."""
        return self._network[0]


class Peers(Teacher):
    """The other members of a group in which every network trains from scratch and learns from the others.

    Source: Zhang et al. 2018 (DML), Guo et al. 2020 (KDCL). There is no teacher: the methods of this policy give each network its
    own loss, and get a tuple of the peers' outputs where others get the teacher's.

    Args:
        networks: untrained, the run's `peers` in order; they train at the student's learning rate.
    Raises:
        ValueError: no network.
    """

    backbone_moves = True
    from_scratch = True
    lr = None

    def __init__(self, networks: Sequence[nn.Module]):
        if not networks:
            raise ValueError("a group of peers needs at least one network beside the student.")
        super().__init__(networks[0])
        self.networks = nn.ModuleList(networks)

    @property
    def network(self) -> nn.Module:
        """The first peer, which stands where the logs compare the student with its teacher."""
        return self.networks[0]

    def forward(self, x: Tensor) -> tuple[Outputs, ...]:
        """What each peer says about the images."""
        return tuple(network(x) for network in self.networks)


POLICIES: dict[str, type[Teacher]] = {
    "frozen": Frozen,
    "finetune": FineTune,
    "adapter": Adapter,
    "layer_adapter": LayerAdapter,
    "peers": Peers,
}
