"""The one training loop, the same for every point of the space *what is matched* x *who moves*.

Everything random is a function of (seed, epoch, step), so a run that goes on from a checkpoint is bit-identical to one that was
never interrupted: same torch build, same instruction set, same number of threads.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kd_lib import metrics, models
from kd_lib.config import Run
from kd_lib.data import Dataset
from kd_lib.data.batches import epoch_order
from kd_lib.data.dataset import Part
from kd_lib.hardware import autocast, keep_freed_memory, place
from kd_lib.methods import Method
from kd_lib.shapes import Batch, Outputs, Pair
from kd_lib.teachers import Teacher

EVALUATION_BATCH = 500
PAIR_SAMPLES = 256
CHECK_EVERY = 50  # steps between looks at the losses on a GPU, where each look waits for it


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
            self.optimiser = torch.optim.AdamW(groups, lr=0.0, weight_decay=decay, foreach=True)
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
    `keep` says whether maps, pre-activations and attentions will be read.
    """

    network: nn.Module
    autocast: Callable[[], AbstractContextManager]
    keep: tuple[bool, bool, bool]
    memory: Outputs | None = None

    def __call__(self, batch: Batch) -> Outputs:
        if self.memory is not None:
            return Outputs(self.memory.logits[batch.index], self.memory.embedding[batch.index])
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
) -> Session:
    """Networks and method of a run, initialised from its seed.

    Student and method draw from separate streams, so that runs of one seed start from the same student whatever they match.

    Args:
        initial: the weights to start from, in place of fresh ones.
        teacher_network: the parent's trained network, for runs that have a teacher. It is copied, never changed.
        memory: the teacher's outputs for every training image, used in place of computing them.
        test_memory: the unmoved teacher's outputs for the test part.
    """
    keep_freed_memory()
    data = data.to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        student = models.build(run.network, **data.sizes, published=initial is None)
        if initial is not None:
            student.load_state_dict(initial)
        student = place(student, device)
        torch.manual_seed(run.seed + 1_000_003)
        method = run.method_type(**run.method_settings)
        if data.train_y.is_floating_point() and not method.regresses:
            raise ValueError(f"method {run.method!r} compares classes, and {data.name} has a number to predict.")
        teacher = frozen = None
        if teacher_network is not None:
            own = place(copy.deepcopy(teacher_network), device)
            teacher = run.policy_type(own, **run.policy_settings).to(device)
            _keep(own, method)
            if not teacher.backbone_moves:
                folded = place(models.fold_batchnorm(own), device)
                keep = (method.needs_maps, method.needs_preactivations, method.needs_attentions)
                frozen = FrozenNetwork(folded, lambda: autocast(device, precision), keep, memory)
        elif run.peers:
            peers = [place(models.build(name, **data.sizes), device) for name in run.peers]
            teacher = run.policy_type(peers, **run.policy_settings)
        _keep(student, method)
        if type(method).connect is not Method.connect:
            torch.manual_seed(run.seed + 2_000_003)
            method.connect(_pair(run, data, student, None if teacher_network is None else own))
    return Session(run, data, device, precision, student, method.to(device), teacher, frozen, test_memory)


def _keep(network: nn.Module, method: Method | None) -> None:
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


def train(session: Session) -> Iterator[dict[str, float]]:
    """Train the epochs that are still missing; yields each epoch's row of the log when it is done.

    Epochs of the method's setup come first, numbered up to 0.

    Raises:
        NonFiniteLoss: with epoch, step and terms.
    """
    while session.epoch < session.run.total_epochs:
        began = time.perf_counter()
        if session.epoch == session.run.setup_epochs:
            session.optimiser.state.clear()  # momentum of the setup phase is none of the run's own
        with torch.random.fork_rng(devices=[session.device] if session.device.type == "cuda" else []):
            trained = _train_epoch(session)
        row = {"epoch": session.epoch + 1 - session.run.setup_epochs, **trained, **evaluate(session)}
        session.log.append({**row, "seconds": round(time.perf_counter() - began, 3)})
        yield session.log[-1]


def _train_epoch(session: Session) -> dict[str, float]:
    run, data = session.run, session.data
    regression = data.train_y.is_floating_point()
    order = epoch_order(len(data.train_y), seed=run.seed, epoch=session.epoch).to(session.device)
    batches = [part for part in order.split(run.batch_size) if len(part) > 1]  # batch norm needs two samples
    steps = len(batches)
    session.parts.train()
    rows: list[Tensor] = []
    correct = torch.zeros((), dtype=torch.int64, device=session.device)
    names: list[str] = []
    inputs = data.training_inputs(batches, seed=run.seed, epoch=session.epoch)
    for step, (index, x) in enumerate(zip(batches, inputs, strict=True)):
        batch = Batch(index, x, data.train_y[index], _step_seed(session, step))
        progress = session.epoch - run.setup_epochs + step / steps
        for group in session.optimiser.param_groups:
            group["lr"] = group["peak"] * (1.0 if session.in_setup else lr_factor(run, progress))
        torch.manual_seed(batch.seed)  # dropout's
        student, terms = (setup_terms if session.in_setup else loss_terms)(session, batch, progress=progress)
        session.optimiser.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        session.optimiser.step()
        names = list(terms)
        rows.append(torch.stack([term.detach() for term in terms.values()]))
        correct += (student.logits[: len(index)].detach().argmax(1) == batch.y).sum()
        if session.device.type == "cpu" or step % CHECK_EVERY == CHECK_EVERY - 1 or step == steps - 1:
            _check_finite(rows, names, session.epoch + 1, step)
    means = torch.stack(rows).double().mean(0).tolist()
    return {
        "lr": session.optimiser.param_groups[0]["lr"],
        "loss": sum(means),
        **{f"loss_{name}": value for name, value in zip(names, means, strict=True)},
        **({} if regression else {"train_accuracy": 100 * correct.item() / sum(map(len, batches))}),
    }


def _step_seed(session: Session, step: int) -> int:
    return ((session.run.seed * 1_000_003 + session.epoch) * 1_000_003 + step) % 2**63


def loss_terms(session: Session, batch: Batch, *, progress: float) -> tuple[Outputs, dict[str, Tensor]]:
    """The student's outputs and every weighted loss term of one batch, the student's and the teacher's."""
    batch = session.method.expand(batch)
    with autocast(session.device, session.precision):
        student = session.student(batch.x)
        moving = session.teacher(batch.x) if session.teacher is not None and session.frozen is None else None
    if session.teacher is None or (not session.teacher_moves and not session.method.listens(progress)):
        return student, session.method(student, None, batch, progress)
    teacher = session.teacher.outputs(session.frozen(batch) if moving is None else moving)
    terms = session.method(student, session.teacher.target(teacher, batch.y), batch, progress)
    return student, {**terms, **session.teacher.terms(student, teacher, batch.y)}


def setup_terms(session: Session, batch: Batch, *, progress: float) -> tuple[Outputs, dict[str, Tensor]]:
    """The same in the method's setup phase: its own terms only, beside a teacher that does not move yet."""
    batch = session.method.expand(batch)
    moves = session.method.setup_moves_student
    session.student.train(moves)
    with torch.set_grad_enabled(moves), autocast(session.device, session.precision):
        student = session.student(batch.x)
    teacher = None
    if session.frozen is not None:
        teacher = session.frozen(batch)
    elif session.teacher is not None:
        with torch.no_grad(), autocast(session.device, session.precision):
            teacher = session.teacher.eval()(batch.x)
    return student, session.method.setup(student, teacher, batch)


def _check_finite(rows: list[Tensor], names: list[str], epoch: int, step: int) -> None:
    recent = torch.stack(rows[-CHECK_EVERY:])
    finite = recent.isfinite().all(1)
    if not bool(finite.all()):
        first = int((~finite).nonzero()[0])
        terms = ", ".join(f"{name}={value:g}" for name, value in zip(names, recent[first].tolist(), strict=True))
        raise NonFiniteLoss(
            f"the loss is not finite in epoch {epoch}, step {step - len(recent) + 2 + first}: {terms}. "
            "A smaller lr, or a smaller weight on the term that grew, is the usual cure."
        )


def lr_factor(run: Run, progress: float) -> float:
    """Learning rate as a fraction of its peak after `progress` epochs (fractional).

    "step": x0.1 at each milestone. "cosine": from 1 to 0. "linear": from 0 to 1 over the first tenth, then to 0 (Devlin et al.
    2019). "one_cycle" (Smith & Topin 2019): from 1/25 up to 1 over the first
    30% of the run, then down to 0, both along a half cosine.
    """
    done = progress / run.epochs
    if run.schedule == "step":
        return 0.1 ** sum(math.floor(progress) >= round(m * run.epochs) for m in run.milestones)
    if run.schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if run.schedule == "linear":
        return min(done / 0.1, (1 - done) / 0.9)
    warm = 0.3
    if done < warm:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * done / warm)) / 2
    return (1 + math.cos(math.pi * (done - warm) / (1 - warm))) / 2


@torch.no_grad()
def predict(network: nn.Module, data: Dataset, part: Part, *, precision: str) -> Outputs:
    """Logits and embeddings for a part of the data, on the device of both, in the network's evaluation mode, batch norms folded."""
    folded, device = models.fold_batchnorm(network), next(network.parameters()).device
    folded = place(folded, device)
    _keep(folded, None)
    chunks = []
    for x in data.inputs(part, EVALUATION_BATCH):
        with autocast(device, precision):
            out = folded(x)
        chunks.append((out.logits, out.embedding))
    logits, embedding = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return Outputs(logits, embedding)


@torch.no_grad()
def predict_teacher(session: Session) -> Outputs:
    """What the teacher, as it is now, says about the test part."""
    if session.teacher.backbone_moves:
        return predict(session.teacher.network, session.data, "test", precision=session.precision)
    return session.teacher.outputs(session.test_memory)


def evaluate(session: Session) -> dict[str, float]:
    """Scores, sharpness and entropy on the test part and, beside a teacher, its scores, gap and KL to it (at temperature 1)."""
    data = session.data
    student = predict(session.student, data, "test", precision=session.precision)
    row = {
        **data.scores(student.logits, data.test_y),
        "sharpness": float(metrics.sharpness(student.logits).mean()),
        "entropy": metrics.entropy(student.logits),
    }
    if session.teacher is not None:
        teacher = predict_teacher(session)
        row |= {f"teacher_{name}": score for name, score in data.scores(teacher.logits, data.test_y).items()}
        row["gap"] = metrics.sharpness_gap(student.logits, teacher.logits)
        row["kl"] = metrics.kl_divergence(student.logits, teacher.logits)
    return row
