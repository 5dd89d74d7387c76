"""The one training loop, the same for every point of the space *what is matched* x *who moves*.

Everything random is a function of (seed, epoch, step), so a run that goes on from a checkpoint is bit-identical to one that was
never interrupted: same torch build, same instruction set, same number of threads.
"""

import math
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from kd_lib import metrics, models
from kd_lib.config import Run
from kd_lib.data import Dataset
from kd_lib.data.batches import epoch_order
from kd_lib.data.dataset import Part
from kd_lib.hardware import autocast, place
from kd_lib.parallel import ALONE, Group
from kd_lib.session import NonFiniteLoss, Session, keep_outputs
from kd_lib.shapes import Batch, Outputs

EVALUATION_BATCH = 500
CHECK_EVERY = 50  # steps between looks at the losses on a GPU, where each look waits for it


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
        _seed_dropout((batch.seed + (shard.rank << 48)) % 2**63, session.device)  # another one in each process
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
    batches = data.batches(order, run.batch_size)
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


def _seed_dropout(seed: int, device: torch.device) -> None:
    if device.type == "cpu":
        # torch.manual_seed would also note down the stack, for a GPU that may come: 0.3 ms
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


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
    keep_outputs(folded, None)
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
