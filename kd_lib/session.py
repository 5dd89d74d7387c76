"""What a run trains with, ready for its first step: networks, method, teacher, optimiser."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from kd_lib import models
from kd_lib.config import Run
from kd_lib.data import Dataset
from kd_lib.hardware import autocast, keep_freed_memory, place
from kd_lib.methods import Method
from kd_lib.parallel import ALONE, Group
from kd_lib.shapes import Batch, Outputs, Pair
from kd_lib.teachers import Teacher

PAIR_SAMPLES = 256


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or NaN; the message holds epoch, step and every term."""


@dataclass
class Session:
    """What one run trains with: networks, data and, as it goes, its log."""

    run: Run
    data: Dataset
    device: torch.device
    precision: str
    student: nn.Module
    method: Method
    teacher: Teacher | None = None
    frozen: "FrozenNetwork | None" = None
    test_memory: Outputs | None = None
    log: list[dict[str, float]] = field(default_factory=list)
    group: Group = ALONE
    error: NonFiniteLoss | None = None

    def __post_init__(self):
        self.parts = nn.ModuleDict({"student": self.student, "method": self.method})
        if self.teacher is not None:
            self.parts["teacher"] = self.teacher
        mine = [*self.student.parameters(), *self.method.parameters()]
        theirs = list(self.teacher.parameters()) if self.teacher is not None else []
        groups = [{"params": mine, "peak": self.run.lr}]
        if theirs:
            groups.append({"params": theirs, "peak": self.run.lr if self.teacher.lr is None else self.teacher.lr})
        decay = self.run.weight_decay
        if self.run.optimiser == "adamw":
            self.optimiser = torch.optim.AdamW(groups, lr=0.0, weight_decay=decay, fused=True)
        else:
            self.optimiser = torch.optim.SGD(
                groups, lr=0.0, momentum=self.run.momentum, weight_decay=decay, foreach=True
            )

    @property
    def epoch(self) -> int:
        """Finished epochs, those of the method's setup included."""
        return len(self.log)

    @property
    def teacher_moves(self) -> bool:
        """Whether anything of the teacher trains."""
        return self.teacher is not None and any(True for _ in self.teacher.parameters())

    @property
    def in_setup(self) -> bool:
        return self.epoch < self.run.setup_epochs


@dataclass
class FrozenNetwork:
    """A trained network that never moves: batch norms folded, evaluation mode, no gradients.

    With `memory` (its outputs for the whole training set, possible where data is not augmented) it answers without computing.
    `keep` says whether maps, pre-activations and attentions will be read. `shared` by several sessions, it remembers its answer to
    the most recent batch.
    """

    network: nn.Module
    autocast: Callable[[], AbstractContextManager]
    keep: tuple[bool, bool, bool]
    memory: Outputs | None = None
    shared: bool = False
    recent: tuple[Tensor, Outputs] | None = None

    def __call__(self, batch: Batch) -> Outputs:
        if self.memory is not None:
            return Outputs(self.memory.logits[batch.index], self.memory.embedding[batch.index])
        if not self.shared:
            return self._ask(batch)
        if self.recent is None or self.recent[0] is not batch.x:
            self.recent = (batch.x, self._ask(batch))
        return self.recent[1]

    def _ask(self, batch: Batch) -> Outputs:
        with torch.inference_mode(), self.autocast():
            out = self.network(batch.x)
        # autograd may not save inference tensors, so what a loss will read is copied; maps are large, so only where they are read
        read = (
            tuple(tensor.clone() for tensor in tensors) if kept else ()
            for tensors, kept in zip(out[2:], self.keep, strict=True)
        )
        return Outputs(out.logits.clone(), out.embedding.clone(), *read)


def start(
    run: Run,
    data: Dataset,
    *,
    device: torch.device,
    precision: str,
    initial: dict[str, Tensor] | None = None,
    teacher_network: nn.Module | None = None,
    memory: Outputs | None = None,
    test_memory: Outputs | None = None,
    group: Group = ALONE,
) -> Session:
    """Networks and method of a run, initialised from its seed.

    Student and method draw from separate streams, so that runs of one seed start from the same student whatever they match.

    Args:
        initial: the weights to start from, in place of fresh ones.
        teacher_network: the parent's trained network, for runs that have a teacher. It is copied, never changed.
        memory: the teacher's outputs for every training image, used in place of computing them.
        test_memory: the unmoved teacher's outputs for the test part.
        group: the processes that train it together.
    """
    keep_freed_memory()
    data = data.to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        fresh = initial is None and run.student_layers is None
        student = models.build(run.network, **data.sizes, published=fresh)
        if initial is not None:
            student.load_state_dict(initial)
        if run.student_layers is not None:
            models.copy_layers(student, teacher_network, run.student_layers)
        student = place(student, device)
        torch.manual_seed(run.seed + 1_000_003)
        method = run.method_type(**run.method_settings)
        if data.train_y.is_floating_point() and not method.regresses:
            raise ValueError(f"method {run.method!r} compares classes, and {data.name} has a number to predict.")
        teacher = frozen = None
        if teacher_network is not None:
            own = place(copy.deepcopy(teacher_network), device)
            teacher = run.policy_type(own, **run.policy_settings).to(device)
            keep_outputs(own, method)
            if not teacher.backbone_moves:
                folded = place(models.fold_batchnorm(own), device)
                keep = (method.needs_maps, method.needs_preactivations, method.needs_attentions)
                frozen = FrozenNetwork(folded, lambda: autocast(device, precision), keep, memory)
        elif run.peers:
            peers = [place(models.build(name, **data.sizes), device) for name in run.peers]
            teacher = run.policy_type(peers, **run.policy_settings)
        keep_outputs(student, method)
        if type(method).connect is not Method.connect:
            torch.manual_seed(run.seed + 2_000_003)
            method.connect(_pair(run, data, student, None if teacher_network is None else own))
    made = Session(run, data, device, precision, student, method.to(device), teacher, frozen, test_memory, group=group)
    group.start_alike(made.parts)
    return made


def keep_outputs(network: nn.Module, method: Method | None) -> None:
    """Has a network return what this method reads, and nothing else that takes memory."""
    network.keep_preactivations = method is not None and method.needs_preactivations
    network.keep_attentions = method is not None and method.needs_attentions


@torch.no_grad()
def _pair(run: Run, data: Dataset, student: nn.Module, teacher: nn.Module | None) -> Pair:
    """What both networks say about the first training samples, as they are."""
    inputs = next(data.inputs("train", PAIR_SAMPLES))

    def outputs(network: nn.Module) -> Outputs:
        modes = {module: module.training for module in network.modules()}
        out = network.eval()(inputs)
        for module, mode in modes.items():
            module.training = mode
        return out

    names = (run.network, run.teacher.network if run.teacher else "")
    taught = outputs(teacher) if teacher is not None else None
    return Pair(names, outputs(student), taught, len(data.train_y), tuple(data.input_shape[1:]))


def share_teacher(sessions: Sequence[Session]) -> None:
    """Let sessions of one frozen teacher, data set, seed and batch size ask it once for each batch."""
    first, *others = sessions
    for session in others:
        mine, theirs = first.run, session.run
        assert (mine.teacher, mine.data, mine.seed, mine.batch_size) == (
            theirs.teacher,
            theirs.data,
            theirs.seed,
            theirs.batch_size,
        )
    if others:
        keep = tuple(any(kept) for kept in zip(*(session.frozen.keep for session in sessions), strict=True))
        network = first.frozen.network
        _, network.keep_preactivations, network.keep_attentions = keep
        shared = replace(first.frozen, keep=keep, shared=True)
        for session in sessions:
            session.frozen = shared
