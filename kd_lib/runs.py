"""The run store: `ensure` loads, resumes or trains; `load` never trains. Notebooks share results through these and nothing else.

A finished run is the folder `done/KEY` of the store: config.json, metrics.jsonl (a row an epoch), weights.safetensors,
outputs.safetensors (test logits and embeddings of student and, where it moved, teacher) and manifest.json.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kd_lib import checkpoint, data, hardware, models, parallel, store
from kd_lib.checkpoint import packed
from kd_lib.config import Run
from kd_lib.data import Dataset
from kd_lib.methods import Method
from kd_lib.parallel import ALONE, Group
from kd_lib.paths import store_root
from kd_lib.session import Session, share_teacher, start
from kd_lib.shapes import Outputs
from kd_lib.train import predict, predict_teacher, train_side_by_side

CHECKPOINT_SECONDS = 5.0  # at most this much work, or one epoch, is lost to a crash

OnEpoch = Callable[[dict[str, float]], None]


class NotTrained(FileNotFoundError):
    """A run that is not in the store; the message says which command trains it."""


@dataclass(frozen=True)
class Result:
    """A finished run, read from the store when asked."""

    run: Run
    folder: Path
    manifest: dict

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """The log, one row an epoch."""
        return pd.read_json(self.folder / "metrics.jsonl", lines=True)

    @property
    def accuracy(self) -> float:
        """Percent on the test part (or the validation part, see `run.split`) after the **last** epoch."""
        return float(self.metrics["accuracy"].iloc[-1])

    @property
    def scores(self) -> dict[str, float]:
        """What the field reports for this data set, in percent, after the last epoch; the first is the main one."""
        return {name: float(self.metrics[name].iloc[-1]) for name in self.data.scores(self.outputs.logits, self.y)}

    @property
    def best_accuracy(self) -> float:
        """The best epoch's accuracy: chosen on the very part it is measured on, so never to be reported as a result."""
        return float(self.metrics["accuracy"].max())

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / "outputs.safetensors")

    @property
    def outputs(self) -> Outputs:
        """Logits [N, C] and embedding [N, D] of the network on the test part."""
        return Outputs(self._tensors["logits"], self._tensors["embedding"])

    @property
    def teacher_outputs(self) -> Outputs:
        """The same of its teacher as it was at the end: moved or adapted, where the policy moves it."""
        if "teacher_logits" in self._tensors:
            return Outputs(self._tensors["teacher_logits"], self._tensors["teacher_embedding"])
        return self.teacher.outputs

    @cached_property
    def teacher(self) -> "Result":
        """The run that made the teacher, before it moved."""
        return load(self.run.teacher)

    @property
    def data(self) -> Dataset:
        return data.load(self.run.data, split=self.run.split, **self.run.data_settings)

    @property
    def y(self) -> Tensor:
        """[N] labels of the test part."""
        return self.data.test_y

    def network(self) -> nn.Module:
        """The trained network, on the CPU, in evaluation mode."""
        network = models.build(self.run.network, **self.data.sizes, published=False)
        network.load_state_dict(self._weights("student."))
        return network.eval()

    def method(self) -> Method:
        """The method with what it learned that does not depend on the networks' sizes (CTKD's temperature)."""
        method = self.run.method_type(**self.run.method_settings)
        if own := method.state_dict():
            trained = self._weights("method.")
            method.load_state_dict({name: trained[name] for name in own})
        return method.eval()

    def _weights(self, prefix: str) -> dict[str, Tensor]:
        weights = load_file(self.folder / "weights.safetensors")
        return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def find(run: Run) -> Result | None:
    """The finished run, verified; None if there is none. Damage is set aside with a warning."""
    folder = store_root() / "done" / run.key
    manifest = store.verify_or_quarantine(folder)
    return Result(run, folder, manifest) if manifest is not None else None


def load(run: Run) -> Result:
    """The finished run; never trains.

    Raises:
        NotTrained: it is not in the store.
    """
    result = find(run)
    if result is None:
        remember(run)
        raise NotTrained(f"not trained yet: {run.label}. Train it with: python -m kd_lib run {run.key}")
    return result


def remember(run: Run) -> None:
    """Write the description to the store, so that the command line can find it by its key."""
    path = store_root() / "known" / f"{run.key}.json"
    if not path.exists():
        store.write_atomic(path, run.model_dump_json(indent=1).encode())


def recall(key: str) -> Run:
    """The description that has this key (or the one whose key begins with it).

    Raises:
        NotTrained: no or several descriptions in the store.
    """
    found = sorted((store_root() / "known").glob(f"{key}*.json"))
    if len(found) != 1:
        raise NotTrained(f"{len(found)} descriptions in the store have a key that begins with {key!r}")
    return Run.model_validate_json(found[0].read_text())


def ensure(run: Run, *, device: str = "auto", on_epoch: OnEpoch | None = None) -> Result:
    """The finished run: loaded, or resumed from its checkpoint, or trained, its teacher first.

    Processes that were launched as a group (see `parallel`) all call it, and train together.

    Args:
        device: "auto", "cpu", "cuda" or "mps".
        on_epoch: called with each epoch's row of the log; in a group, by its first process.
    Raises:
        NonFiniteLoss: the training diverged.
        ValueError: a group cannot train this run.
    """
    group = parallel.join(device)
    done = group.once(lambda: find(run))
    if done is not None:
        return done
    group.check(run)
    group.once(lambda: remember(run))
    for parent in run.parents:
        ensure(parent, device=device)
    with group.lock(run.key):  # another process may have just finished it
        return group.once(lambda: find(run)) or _train([run], device, on_epoch, group)[0]


def ensure_side_by_side(wanted: Sequence[Run], *, device: str = "auto") -> list[Result]:
    """The same for runs that learn from one frozen teacher on the same batches: missing ones train in turns, see `share_teacher`.

    Raises:
        NonFiniteLoss: a training diverged; the others are in the store.
    """
    for run in wanted:
        remember(run)
        for parent in run.parents:
            ensure(parent, device=device)
    with ExitStack() as locks:
        for key in sorted(
            {run.key for run in wanted}
        ):  # in one order everywhere, or two processes could wait for each other
            locks.enter_context(store.lock(key))
        missing = [run for run in wanted if find(run) is None]
        if missing:
            _train(missing, device, None, ALONE)
    return [load(run) for run in wanted]


def _train(wanted: Sequence[Run], device: str, on_epoch: OnEpoch | None, group: Group) -> list[Result]:
    sessions = [_open(run, device, group) for run in wanted]
    for session in sessions:
        checkpoint.resume(session, _work(session.run))
    share_teacher(sessions)
    results = {}
    saved = dict.fromkeys((run.key for run in wanted), time.monotonic())
    for session, row in train_side_by_side(sessions):
        run = session.run
        if group.first:
            with open(_work(run) / "metrics.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
        if session.epoch == run.total_epochs:
            results[run.key] = _finish(session)
        elif group.first and time.monotonic() - saved[run.key] > CHECKPOINT_SECONDS:
            checkpoint.save(session, _work(run))
            saved[run.key] = time.monotonic()
        if group.first and on_epoch is not None:
            on_epoch(row)
    # a run killed after its last epoch and before it was published has nothing left to train
    return [results.get(session.run.key) or _finish(session) for session in sessions]


def _work(run: Run) -> Path:
    return store_root() / "work" / run.key


def _finish(session: Session) -> Result:
    outputs = _outputs(session)
    return session.group.once(lambda: _publish(session, outputs, _work(session.run)))


def _publish(session: Session, outputs: dict[str, Tensor], work: Path) -> Result:
    key, seconds = session.run.key, sum(row["seconds"] for row in session.log)
    facts = hardware.describe(session.device, session.precision) | {"processes": session.group.shard.world}
    files, final = _files(session, outputs), store_root() / "done" / key
    store.publish(work.with_suffix(".publish"), final, files, key=key, seconds=seconds, environment=facts)
    shutil.rmtree(work)
    return find(session.run)


def _open(run: Run, device: str, group: Group = ALONE) -> Session:
    place = group.find_device(device)
    precision = group.once(lambda: hardware.find_precision(run.precision, place))
    dataset = data.load(run.data, split=run.split, **run.data_settings).to(place)
    known: dict[str, object] = {"device": place, "precision": precision, "group": group}
    if run.start_from is not None:
        known["initial"] = group.once(lambda: load(run.start_from)).network().state_dict()
    if run.teacher is not None:
        teacher = group.once(lambda: load(run.teacher))
        network = known["teacher_network"] = hardware.place(teacher.network(), place)
        if not run.policy_type.backbone_moves:
            known["test_memory"] = Outputs(*(t.to(place) for t in teacher.outputs[:2]))
            if not dataset.augmented and not run.method_type.needs_live_teacher():
                known["memory"] = _teacher_memory(teacher, network, dataset, precision, group)
    return start(run, dataset, **known)


def _teacher_memory(teacher: Result, network: nn.Module, dataset: Dataset, precision: str, group: Group) -> Outputs:
    """The teacher's outputs for the whole training set: computed once for all its students."""
    folder = store_root() / "memory" / f"{teacher.run.key}-{precision}"
    with group.lock(folder.name):
        if group.once(lambda: store.verify_or_quarantine(folder)) is None:
            out = predict(network, dataset, "train", precision=precision, group=group)
            tensors = {"logits": out.logits.cpu(), "embedding": out.embedding.cpu()}
            files = {"outputs.safetensors": save(tensors)}
            group.once(lambda: store.publish(folder.with_suffix(".publish"), folder, files))
    tensors = load_file(folder / "outputs.safetensors")
    return Outputs(*(tensors[name].to(dataset.train_y.device) for name in ("logits", "embedding")))


def _outputs(session: Session) -> dict[str, Tensor]:
    out = predict(session.student, session.data, "test", precision=session.precision, group=session.group)
    tensors = {"logits": out.logits, "embedding": out.embedding}
    if session.teacher_moves:
        moved = predict_teacher(session)
        tensors |= {"teacher_logits": moved.logits.detach(), "teacher_embedding": moved.embedding.detach()}
    return tensors


def _files(session: Session, outputs: dict[str, Tensor]) -> dict[str, bytes]:
    return {
        "config.json": session.run.model_dump_json(indent=1).encode(),
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in session.log).encode(),
        "weights.safetensors": save(packed(_weights(session))),
        "outputs.safetensors": save(packed(outputs)),
    }


def _weights(session: Session) -> dict[str, Tensor]:
    """All but the method's buffers (memories, its layers' running statistics): of use for going on, and of none afterwards."""
    forgotten = {f"method.{name}" for name, _ in session.method.named_buffers()}
    return {name: tensor for name, tensor in session.parts.state_dict().items() if name not in forgotten}
