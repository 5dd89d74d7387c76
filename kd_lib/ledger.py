"""The runs behind the published notebooks, a line each: what was trained, how its last epoch ended, and on which machine.

`figures/SCALE/runs/NOTEBOOK.csv`, written with `--publish`; `python -m kd_lib verify` compares it with the store.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from kd_lib import plan, store
from kd_lib.config import Run
from kd_lib.paths import project_root, store_root

TOLERANCE = 1e-9  # relative: a CSV holds all digits


def table(wanted: Iterable) -> pd.DataFrame:
    """One row for each run that is needed, teachers before their students.

    Columns: key, run (its label), teacher (its key), data; the log's last row, each loss term apart; seconds of all epochs; torch,
    python, machine, device, processor, precision, threads, processes.

    Args:
        wanted: finished runs in any nesting of dicts, lists and tuples.
    """
    runs = [step.run for step in plan.plan(wanted)]
    return pd.concat([pd.DataFrame([part(run) for run in runs]) for part in (_result, _machine)], axis=1)


def _result(run: Run) -> dict[str, object]:
    what = {"key": run.key, "run": run.label, "teacher": run.teacher.key if run.teacher else "", "data": run.data}
    return what | _scores(store_root() / "done" / run.key)


def _machine(run: Run) -> dict[str, object]:
    manifest = json.loads((store_root() / "done" / run.key / store.MANIFEST).read_bytes())
    return {"seconds": manifest["seconds"], **manifest["environment"]}


def _scores(folder: Path) -> dict[str, float]:
    last = json.loads((folder / "metrics.jsonl").read_bytes().splitlines()[-1])
    return {
        name: value for name, value in last.items() if name not in ("lr", "seconds") and not name.startswith("loss_")
    }


def write(wanted: Iterable, notebook: str, scale: str, folder: Path) -> None:
    """Write a notebook's ledger, or take it away where the notebook needs no runs.

    Args:
        wanted: its runs, finished.
        notebook: its name, without ".ipynb".
        scale: they were trained at.
        folder: of the figures.
    """
    path, lines = folder / scale / "runs" / f"{notebook}.csv", table(wanted)
    if lines.empty:
        path.unlink(missing_ok=True)
    else:
        store.write_atomic(path, lines.to_csv(index=False).encode())


def compare(scale: str, folder: Path | None = None) -> tuple[int, list[str]]:
    """The ledgers of a scale against the runs in the store. Trains nothing, and needs no data.

    Args:
        scale: of `figures/SCALE/runs/`.
        folder: of the figures.
    Returns:
        How many lines have their run in the store, and a sentence for each whose numbers are others there.
    """
    compared, problems = 0, []
    for path in sorted((folder or project_root() / "figures").glob(f"{scale}/runs/*.csv")):
        for line in pd.read_csv(path).to_dict("records"):
            done = store_root() / "done" / line["key"]
            if done.is_dir():
                compared += 1
                now = _scores(done)
                if other := [name for name, value in now.items() if not same(value, line.get(name, math.nan))]:
                    told = ", ".join(
                        f"{name} {line.get(name, 'nothing')}, but the run says {now[name]}" for name in other
                    )
                    problems.append(f"{scale}/runs/{path.name}, {line['key']} ({line['run']}): {told}")
    return compared, problems


def same(a: float, b: float) -> bool:
    """Whether a committed number is a computed one; what cannot be computed is the same as itself."""
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) or (math.isnan(a) and math.isnan(b))
