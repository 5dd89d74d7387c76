"""Whether the committed figures are complete, and the committed verdicts those of the runs in the store."""

from pathlib import Path

from kd_lib.claims.evidence import NO_DATA, Evidence
from kd_lib.claims.report import CLAIMS, committed, verdicts
from kd_lib.ledger import same
from kd_lib.paths import project_root, store_root

KINDS = ("csv", "png", "svg")


def incomplete_figures(folder: Path | None = None) -> list[str]:
    """A line for each figure in `figures/<scale>/` that lacks its picture or its numbers."""
    folder = folder or project_root() / "figures"
    problems = []
    for stem in sorted({path.with_suffix("") for path in folder.glob("*/*.*")}):
        lost = [kind for kind in KINDS if not stem.with_suffix(f".{kind}").is_file()]
        if lost:
            problems.append(f"{stem.parent.name}/{stem.name}: no {', '.join(lost)}")
    return problems


def compare_verdicts(scale: str, folder: Path | None = None) -> tuple[int, list[str]]:
    """The committed verdicts of a scale against the runs in the store. Trains nothing.

    Args:
        scale: of `figures/<scale>/claims.csv`.
        folder: of the figures.
    Returns:
        How many claims could be compared (all their runs are in the store), and a line for each that differs: made from other
        runs, or from the same ones on another machine or by other code.
    """
    table = committed(scale, folder)
    if table is None:
        return 0, []
    stored = {path.name for path in (store_root() / "done").glob("*")}
    known = {
        row["claim"]: row for row in table.to_dict("records") if set(row["keys"].split()) <= stored and row["keys"]
    }
    chosen = [claim for claim in CLAIMS if claim.id in known]
    if not chosen:
        return 0, []
    now = verdicts(Evidence(scale), claims=chosen)
    now = now[now["note"] != NO_DATA]  # without the data a run has no key
    problems = []
    for row in now.to_dict("records"):
        old = known[row["claim"]]
        if set(row["keys"].split()) != set(old["keys"].split()):
            problems.append(f"{scale}/claims.csv, {row['claim']}: the notebooks name other runs now")
        elif not all(same(row[name], old[name]) for name in ("effect", "low", "high")):
            problems.append(f"{scale}/claims.csv, {row['claim']}: {old['text']}, but the runs say {row['text']}")
    return len(now), problems
