"""Notebooks through papermill: one process and one kernel each, several at a time, and none left behind.

papermill 2.7 leaves a file whose cells all read "completed" after a kernel was killed, and returns without an error
after `sys.exit(0)`. So it writes to a temporary folder, the result is checked, and only a sound notebook gets its final
name, by one rename. `python -m kd_lib.execution FOLDER DIRECTORY` is the process of one notebook: FOLDER holds its
files, DIRECTORY is where its kernel works.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from kd_lib import notebooks
from kd_lib.notebooks import CellProblem
from kd_lib.progress import Progress, clock

POLL_SECONDS = 0.1
GRACE_SECONDS = 3  # from asking a process to end to ending it
DEAF_SECONDS = 10  # after a first Ctrl-C, so that a second one does not disturb the clearing up
START_SECONDS, OUTPUT_SECONDS = 300, 60  # for a kernel to start, and for outputs after a cell's end, on a busy machine
KERNEL_DIED = "the kernel died"
CAUSES = {  # how an error starts -> what is likely behind it
    KERNEL_DIED: "often out of memory: try fewer --jobs or a smaller --scale",
    "MemoryError": "try fewer --jobs or a smaller --scale",
    "ModuleNotFoundError": "the environment lacks a package or is not the one you meant",
}


class Task(NamedTuple):
    """A notebook to execute.

    Attributes:
        name: the notebook's, without the ending.
        notebook: its content, parameters injected.
        output: the final name of the executed notebook.
    """

    name: str
    notebook: dict
    output: Path


class Result(NamedTuple):
    """How it went.

    Attributes:
        name: the notebook's.
        seconds: wall time of its process.
        failure: the code cell, the error and the likely cause; None where all is well and the output is there.
    """

    name: str
    seconds: float
    failure: str | None


class _Running(NamedTuple):
    task: Task
    folder: Path  # in.ipynb, out.ipynb, cell.json, log.txt
    process: subprocess.Popen
    start: float
    cells: int

    def reached(self) -> CellProblem:
        """The code cell it is in, or ended in; the error is empty as long as there is none."""
        record = self.folder / "cell.json"
        return CellProblem(**json.loads(record.read_text())) if record.exists() else CellProblem(0, "", "")


def execute_all(tasks: list[Task], *, directory: Path, jobs: int) -> list[Result]:
    """Executes notebooks, up to `jobs` at a time; one that fails does not stop the others.

    Args:
        tasks: the notebooks.
        directory: where the kernels work.
        jobs: notebooks at a time, at least 1.
    Returns:
        One result a task, in the order of the tasks.
    Raises:
        KeyboardInterrupt: after their processes ended; its text says which notebooks were in which cells.
    """
    waiting, results = deque(tasks), {}
    running: list[_Running] = []
    progress, began = Progress(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kd_", ignore_cleanup_errors=True) as work:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(_start(waiting.popleft(), directory, Path(work)))
                    _say(progress, f"{running[-1].task.name}: started")
                for one in [one for one in running if one.process.poll() is not None]:
                    results[one.task.name] = result = _finish(one)
                    running.remove(one)
                    _say(progress, f"{result.name}: {'failed' if result.failure else 'ok'}, {clock(result.seconds)}")
                where = [f"{one.task.name} at cell {one.reached().number}/{one.cells}" for one in running]
                line = f"{len(results)} of {len(tasks)} notebooks, {clock(time.monotonic() - began)}"
                progress.show(", ".join([line, *where]), last=not (waiting or running))
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("; ".join(f"{one.task.name}, {one.reached().where}" for one in running)) from None
        finally:
            end(psutil.Process(one.process.pid) for one in running if psutil.pid_exists(one.process.pid))
    return [results[task.name] for task in tasks]


def end(processes: Iterable[psutil.Process]) -> None:
    """Ends processes and everything below them, politely first."""
    tree: list[psutil.Process] = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            tree += [process, *process.children(recursive=True)]
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(tree, timeout=GRACE_SECONDS)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=GRACE_SECONDS)


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Turns SIGINT, SIGTERM and SIGHUP into one KeyboardInterrupt; yields what ends the processes started since."""
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signals.append(signal.SIGHUP)
    earlier = {number: signal.getsignal(number) for number in signals}
    spared = set(psutil.Process().children())
    last = -DEAF_SECONDS

    def stop(number: int, frame: object) -> None:
        nonlocal last
        if time.monotonic() - last >= DEAF_SECONDS:
            last = time.monotonic()
            raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, stop)
    try:
        yield lambda: end(child for child in psutil.Process().children() if child not in spared)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _start(task: Task, directory: Path, work: Path) -> _Running:
    folder = work / task.name
    folder.mkdir()
    (folder / "in.ipynb").write_text(json.dumps(task.notebook), encoding="utf-8")
    environment = os.environ | {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # the other cores are for other notebooks
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])),
        "KD_PROGRESS": "sparse",
        "TMPDIR": str(work),  # a kernel that is killed leaves its connection file
        "JUPYTER_RUNTIME_DIR": str(work / "jupyter"),
        "IPYTHONDIR": str(work / "ipython"),  # the user's start-up files must not change results
    }
    environment.pop("MPLBACKEND", None)  # a kernel draws inline only where it is unset
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "kd_lib.execution", str(folder), str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others
        )
    return _Running(task, folder, process, time.monotonic(), len(notebooks.code_cells(task.notebook)))


def _finish(one: _Running) -> Result:
    """Gives a sound notebook its final name; else leaves a report beside that name."""
    seconds = time.monotonic() - one.start
    report = one.task.output.with_suffix(".failed.txt")
    problem = _problem(one)
    if problem is None:
        notebooks.place(one.task.output, (one.folder / "out.ipynb").read_text(encoding="utf-8"))
        report.unlink(missing_ok=True)
        return Result(one.task.name, seconds, None)
    log = (one.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    notebooks.place(report, f"{one.task.name}, {problem}\n\n{_without_colours(log)}")
    cause = next((f" ({cause})" for start, cause in CAUSES.items() if problem.error.startswith(start)), "")
    brief = problem._replace(error=problem.error.strip().splitlines()[0])
    return Result(one.task.name, seconds, f"{brief}{cause}; details in {report}")


def _problem(one: _Running) -> CellProblem | None:
    reached, status = one.reached(), one.process.returncode
    if reached.error:
        return reached
    if status != 0:
        return reached._replace(error=f"{KERNEL_DIED} with the process around it, exit status {status}")
    return notebooks.execution_problem(notebooks.read(one.folder / "out.ipynb"))


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def _say(progress: Progress, line: str) -> None:
    """A line for a log; in a terminal the live line says it."""
    if progress.form != "terminal":
        print(line, flush=True)


def _leave_with(parent: int) -> None:
    """Ends this process, and thereby its kernel, when the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _one_notebook(folder: Path, directory: str) -> int:
    """Executes `in.ipynb` to `out.ipynb` and keeps `cell.json` up to date; returns the exit status."""
    sys.modules["rfc3987_syntax"] = None  # optional for jsonschema; its import compiles a grammar for a second
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    reached = CellProblem(0, "", "")

    def record(state: CellProblem) -> None:
        nonlocal reached
        reached = state
        (folder / "cell.part").write_text(json.dumps(state._asdict()))
        os.replace(folder / "cell.part", folder / "cell.json")

    def at_cell(cell: dict, cell_index: int) -> None:  # nbclient calls it by these names
        if notebooks.INJECTED not in notebooks.tags(cell):
            record(CellProblem(reached.number + 1, notebooks.first_line(cell), ""))

    options = {
        "progress_bar": False,
        "start_timeout": START_SECONDS,
        "iopub_timeout": OUTPUT_SECONDS,
        "coalesce_streams": True,
        "on_cell_execute": at_cell,
    }
    try:
        papermill.execute_notebook(folder / "in.ipynb", folder / "out.ipynb", cwd=directory, **options)
        return 0
    except DeadKernelError:
        record(reached._replace(error=KERNEL_DIED))
    except PapermillExecutionError as raised:
        print("\n".join(raised.traceback))
        problem = notebooks.execution_problem(notebooks.read(folder / "out.ipynb"))
        record(problem or reached._replace(error=f"{raised.ename}: {raised.evalue}"))
    except Exception as raised:  # a kernel that does not start, outputs that do not come
        traceback.print_exc()
        record(reached._replace(error=f"{type(raised).__name__}: {raised}"))
    return 1


if __name__ == "__main__":
    sys.exit(_one_notebook(Path(sys.argv[1]), sys.argv[2]))
