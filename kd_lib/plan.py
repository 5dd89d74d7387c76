"""Many runs: what is missing, in which order, how long it will take, and training it in parallel processes."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch

from kd_lib import checkpoint, data, parallel, runs
from kd_lib.config import Run
from kd_lib.estimate import megabytes, paces, seconds_left, work_units
from kd_lib.parallel import Group
from kd_lib.paths import store_root
from kd_lib.progress import Progress, clock
from kd_lib.runs import Result

POLL_SECONDS = 0.5
SIDE_BY_SIDE = 8  # students of one teacher in a process, at most: each keeps its own activations in memory


class RunFailed(RuntimeError):
    """Some runs did not finish; the message names each with its error. The others are in the store."""


@dataclass(frozen=True)
class Step:
    """One run of a plan.

    Attributes:
        trained: share of its epochs that are in its newest checkpoint; 1 for a finished run.
        seconds: expected for the others on one thread.
        megabytes: expected size in the store.
    """

    run: Run
    trained: float
    seconds: float
    megabytes: float

    @property
    def state(self) -> str:
        """ "done", "resumable" (a checkpoint is there) or "new"."""
        return "done" if self.trained == 1 else "resumable" if self.trained else "new"

    @property
    def key(self) -> str:
        return self.run.key

    @property
    def label(self) -> str:
        return self.run.label


def flatten(nested: object) -> Iterator[Run]:
    """The runs in any nesting of dicts, lists and tuples."""
    if isinstance(nested, Run):
        yield nested
    else:
        for part in nested.values() if isinstance(nested, Mapping) else nested:
            yield from flatten(part)


def plan(wanted: Iterable) -> list[Step]:
    """Every run that the wanted ones need, each once, teachers before their students.

    Args:
        wanted: runs in any nesting of dicts, lists and tuples.
    """
    ordered: dict[str, Run] = {}

    def visit(run: Run) -> None:
        for parent in run.parents:
            visit(parent)
        ordered.setdefault(run.key, run)

    for run in flatten(wanted):
        visit(run)
    found = paces({run.data for run in ordered.values()})
    return [_step(run, found[run.data]) for run in ordered.values()]


def _step(run: Run, pace: float) -> Step:
    if (store_root() / "done" / run.key).is_dir():
        return Step(run, 1.0, 0.0, megabytes(run))
    trained = checkpoint.epochs(store_root() / "work" / run.key) / run.total_epochs
    return Step(run, trained, (1 - trained) * work_units(run) * pace, megabytes(run))


def describe(steps: list[Step], jobs: int | None = None) -> str:
    """The plan as a table for people: state, expected time, size and label of each run, then the totals."""
    jobs = jobs or default_jobs()
    rows = [
        f"{step.state:10} {clock(step.seconds):>12}  {step.megabytes:7.1f} MB  {step.key}  {step.label}"
        for step in steps
    ]
    missing = [step for step in steps if step.state != "done"]
    wall = max([sum(step.seconds for step in missing) / jobs, *(step.seconds for step in missing)], default=0.0)
    total = (
        f"{len(steps)} runs, {len(steps) - len(missing)} in the store; to train: {len(missing)}, about {clock(wall)} "
        f"with {jobs} processes, {sum(step.megabytes for step in missing):.0f} MB"
    )
    return "\n".join([*rows, total])


def default_jobs() -> int:
    """Processes side by side: one a core on a CPU, one in all on a GPU."""
    if torch.cuda.is_available():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ensure(wanted: Iterable, **options) -> list[Result]:
    """The results of all wanted runs, in their order; what is missing is trained first, see `execute`."""
    wanted, group = list(flatten(wanted)), parallel.join(options.get("device", "auto"))
    found = group.once(lambda: {run.key: runs.find(run) for run in wanted})
    if None in found.values():
        execute([run for run in wanted if found[run.key] is None], **options)
    return [found[run.key] or group.once(partial(runs.load, run)) for run in wanted]


def execute(
    wanted: Iterable,
    *,
    jobs: int | None = None,
    threads: int = 1,
    device: str = "auto",
    executor: Executor | None = None,
) -> None:
    """Train what is missing, teachers before students, the rest side by side in processes of their own.

    Processes that were launched as a group (see `parallel`) all call it, and train together, one run after the other up to the
    first that fails.

    Args:
        wanted: runs in any nesting of dicts, lists and tuples.
        jobs: processes at a time; the default is one a core. A group has those it was launched with.
        threads: of each process. One is fastest for small networks, and results are bit-identical only for equal numbers.
        device: "auto", "cpu", "cuda" or "mps".
        executor: where to train instead, for example `dask.distributed.Client(address).get_executor()` for many machines that
            share the store's disk.
    Raises:
        RunFailed: after all that could be trained is trained.
        ValueError: a group was given an executor.
    """
    wanted, group = list(flatten(wanted)), parallel.join(device)
    missing = group.once(lambda: [step for step in plan(wanted) if runs.find(step.run) is None])
    if not missing:
        return
    if parallel.launched():
        if executor is not None:
            raise ValueError("processes that were launched as a group train by themselves: no executor then.")
        return _together(missing, group, device)
    if executor is not None:
        return _drive(missing, executor, device)
    jobs = min(jobs or default_jobs(), len(missing))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(threads, os.getpid()))
    try:
        _drive(missing, pool, device, jobs)
    except BaseException:
        # Ctrl-C among others: a worker in the middle of a run would otherwise go on to the end of it
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    pool.shutdown()


def _together(steps: list[Step], group: Group, device: str) -> None:
    try:
        for step in steps:  # all of them, before anything is trained
            group.check(step.run)
    except ValueError as error:
        raise RunFailed(str(error)) from error
    progress, began = Progress(), time.monotonic()
    for number, step in enumerate(steps):
        line = partial(_line, steps, steps[:number], [step], began, 1)
        try:
            runs.ensure(step.run, device=device, on_epoch=lambda _row, line=line: progress.show(line()))
        except Exception as error:
            raise RunFailed(f"{step.label}: {type(error).__name__}: {error}") from error
    if group.first:
        progress.show(_line(steps, steps, [], began, 1), last=True)


def _start_worker(threads: int, parent: int) -> None:
    # Ctrl-C in a terminal reaches this process too; a worker that is ended while it reports its own KeyboardInterrupt leaves half a
    # message, for which the pool would wait for ever
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)

    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _train_unit(descriptions: list[str], device: str) -> None:
    wanted = [Run.model_validate_json(description) for description in descriptions]
    runs.ensure_side_by_side(wanted, device=device)


def _units(steps: list[Step], free: int) -> list[list[Step]]:
    """Steps to be trained by one process each: those that can share a teacher's answers together, but no processor left idle."""
    units: dict[object, list[Step]] = {}
    for step in steps:
        units.setdefault(_shares(step.run) or step.key, []).append(step)
    parts = list(units.values())
    while len(parts) < free and len(largest := max(parts, key=len, default=[])) > 1:
        parts.remove(largest)
        parts += [largest[::2], largest[1::2]]
    return [part[i : i + SIDE_BY_SIDE] for part in parts for i in range(0, len(part), SIDE_BY_SIDE)]


def _shares(run: Run) -> tuple | None:
    """What runs must have in common to train side by side on one teacher's answers; None where nothing would be saved.

    A teacher whose answers are remembered costs nothing, and one that moves is each run's own.
    """
    if run.teacher is None or run.policy_type.backbone_moves or run.method_type.views > 1:
        return None
    dataset = data.load(run.data, split=run.split, **run.data_settings)
    if not dataset.augmented and not run.method_type.needs_live_teacher():
        return None
    same = (run.teacher.key, run.data, repr(run.data_settings), run.split, run.seed, run.batch_size, run.precision)
    # on a GPU a transformer that gives its scores away rounds in another way than one that does not
    return (*same, run.method_type.needs_attentions)


def _drive(steps: list[Step], executor: Executor, device: str, jobs: int | None = None) -> None:
    spread, jobs = jobs or len(steps), jobs or 1  # nobody knows how many workers another executor has
    waiting = {step.key: step for step in steps}
    running: dict[Future, list[Step]] = {}
    failed: dict[str, str] = {}
    finished: list[Step] = []
    progress, began = Progress(), time.monotonic()
    weight = _time_to_last(steps)
    while waiting or running:
        blocked = {step.key for step in [*waiting.values(), *chain(*running.values())]}
        ready = [s for s in waiting.values() if not any(parent.key in blocked for parent in s.run.parents)]
        free: list[Step] = []
        for step in sorted(ready, key=lambda s: -weight[s.key]):
            del waiting[step.key]
            if lost := [parent.label for parent in step.run.parents if parent.key in failed]:
                failed[step.key] = f"{step.label}: not started, because {lost[0]} did not finish"
            else:
                free.append(step)
        for unit in _units(free, spread - len(running)):
            running[executor.submit(_train_unit, [step.run.model_dump_json() for step in unit], device)] = unit
        done, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            unit = running.pop(future)
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                raise RunFailed(
                    f"a training process died (killed, often for want of memory) at: {unit[0].label}. "
                    "Run the same again: finished runs and checkpoints are kept."
                ) from error
            for step in unit:
                if error is not None and (len(unit) == 1 or runs.find(step.run) is None):
                    failed[step.key] = f"{step.label}: {type(error).__name__}: {error}"
                finished.append(step)
        progress.show(_line(steps, finished, [*chain(*running.values())], began, jobs), last=not (waiting or running))
    if failed:
        raise RunFailed(f"{len(failed)} of {len(steps)} runs did not finish:\n" + "\n".join(failed.values()))


def _time_to_last(steps: list[Step]) -> dict[str, float]:
    """Seconds from a run's start to the end of the longest chain of students that hangs on it: the longest goes first."""
    weight: dict[str, float] = {step.key: step.seconds for step in steps}
    own = dict(weight)
    for step in reversed(steps):
        for parent in step.run.parents:
            if parent.key in weight:
                weight[parent.key] = max(weight[parent.key], own[parent.key] + weight[step.key])
    return weight


def _line(steps: list[Step], finished: list[Step], running: list[Step], began: float, jobs: int) -> str:
    fractions = {step.key: _fraction(step) for step in running}
    total = sum(step.seconds for step in steps) or 1.0
    done = sum(step.seconds for step in finished)
    for step in running:  # of the epochs that were left when this began
        done += step.seconds * max(0.0, fractions[step.key] - step.trained) / (1 - step.trained or 1.0)
    elapsed = time.monotonic() - began
    left = clock(seconds_left(total / jobs, done / total, elapsed))
    now = ", ".join(f"{step.label} {fractions[step.key]:.0%}" for step in running[:jobs])
    state = f"{now}; about {left} left" if len(finished) < len(steps) else f"took {clock(elapsed)}"
    return f"trained {len(finished)} of {len(steps)} runs; {state}"


def _fraction(step: Step) -> float:
    try:
        with open(store_root() / "work" / step.key / "metrics.jsonl", "rb") as file:
            return min(1.0, sum(1 for _ in file) / step.run.total_epochs)
    except FileNotFoundError:
        return 0.0
