"""The one training loop, the same for every point of the space *what is matched* x *who moves*.

Everything random is a function of (seed, epoch, step), so a run that goes on from a checkpoint is bit-identical to one that was
never interrupted: same torch build, same instruction set, same number of threads.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from kd_lib import metrics, models
from kd_lib.config import Run
from kd_lib.data import Dataset
from kd_lib.data.batches import epoch_order
from kd_lib.data.dataset import Part
from kd_lib.hardware import autocast, keep_freed_memory, place
from kd_lib.methods import Method
from kd_lib.parallel import ALONE, Group
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
    made = Session(run, data, device, precision, student, method.to(device), teacher, frozen, test_memory, group=group)
    group.start_alike(made.parts)
    return made


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
    for _, row in train_side_by_side([session]):
        yield row


def train_side_by_side(sessions: Sequence[Session]) -> Iterator[tuple[Session, dict[str, float]]]:
    """The same for sessions that see the same batches (see `share_teacher`): each step is taken by one after the other.

    Each ends with the bits that it would have ended with alone. The `seconds` of an epoch are an even share of all.

    Yields:
        A session and its new row.
    Raises:
        NonFiniteLoss: the first one, after the other sessions are done.
    """
    lost: list[NonFiniteLoss] = []
    going = list(sessions)
    while going := [s for s in going if s.error is None and s.epoch < s.run.total_epochs]:
        epoch = min(session.epoch for session in going)
        now = [session for session in going if session.epoch == epoch]
        began = time.perf_counter()
        trained = _train_epoch(now)
        share = (time.perf_counter() - began) / len(now)
        lost += [session.error for session in now if session.error]
        for session, row in trained:
            began = time.perf_counter()
            session.group.settle(session.parts)
            row = {"epoch": session.epoch + 1 - session.run.setup_epochs, **row, **evaluate(session)}
            session.log.append({**row, "seconds": round(share + time.perf_counter() - began, 3)})
            yield session, session.log[-1]
    if lost:
        raise lost[0]


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


class Tally:
    """One session's way through one epoch."""

    def __init__(self, session: Session):
        self.session, self.names, self.samples = session, [], 0
        self.rows: list[Tensor] = []
        self.correct = torch.zeros((), dtype=torch.int64, device=session.device)
        self.exchange = session.group.exchange(dict(session.parts.named_parameters()))
        if session.epoch == session.run.setup_epochs:
            session.optimiser.state.clear()  # momentum of the setup phase is none of the run's own
        session.parts.train()

    def step(self, whole: Tensor, x: Tensor, step: int, steps: int) -> None:
        """One step on the batch with these positions in the training set, and the inputs of this process's share of it."""
        session, run, shard = self.session, self.session.run, self.session.group.shard
        index = whole[shard.of(len(whole))]
        batch = Batch(index, x, session.data.train_y[index], _step_seed(session, step))
        progress = session.epoch - run.setup_epochs + step / steps
        for group in session.optimiser.param_groups:
            group["lr"] = group["peak"] * (1.0 if session.in_setup else lr_factor(run, progress))
        torch.manual_seed((batch.seed + (shard.rank << 48)) % 2**63)  # dropout's, another one in each process
        student, terms = (setup_terms if session.in_setup else loss_terms)(session, batch, progress=progress)
        session.optimiser.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        right = (student.logits[: len(index)].detach().argmax(1) == batch.y).sum()
        values = torch.stack([term.detach() for term in terms.values()])
        values, right = self.exchange(len(index) / len(whole), values, right)
        session.optimiser.step()
        self.names = list(terms)
        self.rows.append(values)
        self.correct += right
        self.samples += len(whole)
        if session.device.type == "cpu" or step % CHECK_EVERY == CHECK_EVERY - 1 or step == steps - 1:
            _check_finite(self.rows, self.names, session.epoch + 1, step)

    def row(self) -> dict[str, float]:
        """Means over the epoch."""
        means = torch.stack(self.rows).double().mean(0).tolist()
        regression = self.session.data.train_y.is_floating_point()
        return {
            "lr": self.session.optimiser.param_groups[0]["lr"],
            "loss": sum(means),
            **{f"loss_{name}": value for name, value in zip(self.names, means, strict=True)},
            **({} if regression else {"train_accuracy": 100 * self.correct.item() / self.samples}),
        }


def _train_epoch(sessions: Sequence[Session]) -> list[tuple[Session, dict[str, float]]]:
    """The sessions that came through it, with their means; a session that did not keeps its error."""
    run, data, epoch, device = sessions[0].run, sessions[0].data, sessions[0].epoch, sessions[0].device
    order = epoch_order(len(data.train_y), seed=run.seed, epoch=epoch).to(device)
    batches = [part for part in order.split(run.batch_size) if len(part) > 1]  # batch norm needs two samples
    inputs = data.training_inputs(batches, seed=run.seed, epoch=epoch, shard=sessions[0].group.shard)
    tallies = [Tally(session) for session in sessions]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for step, (whole, x) in enumerate(zip(batches, inputs, strict=True)):
            for tally in [t for t in tallies if t.session.error is None]:
                try:
                    tally.step(whole, x, step, len(batches))
                except NonFiniteLoss as error:
                    tally.session.error = error
            if all(tally.session.error for tally in tallies):
                break
    return [(tally.session, tally.row()) for tally in tallies if tally.session.error is None]


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
def predict(network: nn.Module, data: Dataset, part: Part, *, precision: str, group: Group = ALONE) -> Outputs:
    """Logits and embeddings for a part of the data, on the device of both, in the network's evaluation mode, batch norms folded."""
    folded, device = models.fold_batchnorm(network), next(network.parameters()).device
    folded = place(folded, device)
    _keep(folded, None)
    chunks = []
    for x in data.inputs(part, EVALUATION_BATCH, group.shard):
        with autocast(device, precision):
            out = folded(x)
        chunks.append((out.logits, out.embedding))
    n = len(data.train_y if part == "train" else data.test_y)
    return Outputs(*(group.gather(torch.cat(parts), n) for parts in zip(*chunks, strict=True)))


@torch.no_grad()
def predict_teacher(session: Session) -> Outputs:
    """What the teacher, as it is now, says about the test part."""
    if session.teacher.backbone_moves:
        network = session.teacher.network
        return predict(network, session.data, "test", precision=session.precision, group=session.group)
    return session.teacher.outputs(session.test_memory)


def evaluate(session: Session) -> dict[str, float]:
    """Scores, sharpness and entropy on the test part and, beside a teacher, its scores, gap and KL to it (at temperature 1)."""
    data = session.data
    student = predict(session.student, data, "test", precision=session.precision, group=session.group)
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
