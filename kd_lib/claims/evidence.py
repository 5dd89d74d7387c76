"""The runs behind claims: those that the notebooks declare at a scale, as far as they are in the store. Nothing is trained."""

import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from kd_lib import notebooks as files
from kd_lib import parameters, runs
from kd_lib.claims.claim import Claim
from kd_lib.claims.measures import MEASURES, TEACHER_NEEDED, facts
from kd_lib.config import Run
from kd_lib.data import DataNotFound
from kd_lib.paths import project_root

NO_DATA = "its data are not on this machine"


class Declared(NamedTuple):
    """What a notebook needs at a scale.

    Attributes:
        parameters: its values.
        runs: as it declares them; one that has a part in two comparisons stands there twice, described from either side.
        problem: why there are none.
    """

    parameters: Mapping[str, Any]
    runs: tuple[Run, ...]
    problem: str = ""


class Picked(NamedTuple):
    """The runs that decide one claim.

    Attributes:
        table: those in the store, a row each: `measures.facts` and the claim's measures.
        declared: how many the notebook declares.
        problem: why there are none.
    """

    table: pd.DataFrame
    declared: int
    problem: str = ""


class Evidence:
    """All runs of one scale, read when a claim asks for them; a number that several claims need is computed once.

    Args:
        scale: of `parameters.SCALES`.
        folder: with the notebooks and `scales.yaml`; of the checkout by default.
    Attributes:
        notebook: from a notebook's number to what it declares.
    """

    def __init__(self, scale: str, folder: Path | None = None):
        self.scale = scale
        folder = folder or project_root() / "notebooks"
        self._paths = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
        scales = yaml.safe_load((folder / "scales.yaml").read_text(encoding="utf-8"))
        self._values = parameters.from_scales({n: _declared(n, p) for n, p in self._paths.items()}, scales, scale)
        self._known: dict[tuple[str, str], float] = {}
        self.notebook = cache(self._notebook)

    @property
    def notebooks(self) -> list[str]:
        return [name[:2] for name in self._paths]

    def _notebook(self, number: str) -> Declared:
        """The runs that a notebook declares."""
        name = next((name for name in self._paths if name[:2] == number), None)
        if name is None:
            return Declared({}, (), f"there is no notebook {number}")
        try:
            found = files.collect_runs(self._paths[name], self._values[name])
        except ValueError as error:
            if not isinstance(error.__cause__, DataNotFound):
                raise
            return Declared(self._values[name], (), NO_DATA)
        return Declared(self._values[name], tuple(found))

    def pick(self, claim: Claim) -> Picked:
        """The claim's runs and their numbers."""
        owner = self.notebook(claim.notebook)
        picked = [run for run in owner.runs if claim.picks(run, owner.parameters)]
        wanted = list({run.key: run for run in picked}.values())
        rows = [self._row(run, claim.compare.columns) for run in wanted]
        problem = owner.problem or ("" if wanted else f"notebook {claim.notebook} has no such runs at this scale")
        return Picked(pd.DataFrame([row for row in rows if row]), len(wanted), problem)

    def numbers(self, run: Run, names: Iterable[str]) -> dict[str, float] | None:
        """Some of `MEASURES` of a run; None where it is not in the store."""
        if unknown := [name for name in names if (run.key, name) not in self._known]:
            result = runs.find(run)
            if result is None:
                return None
            for name in unknown:
                has_one = name not in TEACHER_NEEDED or run.teacher or run.peers
                self._known[run.key, name] = MEASURES[name](result) if has_one else math.nan
        return {name: self._known[run.key, name] for name in names}

    def _row(self, run: Run, columns: Iterable[str]) -> dict[str, object] | None:
        numbers = self.numbers(run, [name for name in columns if name in MEASURES])
        return None if numbers is None else {**facts(run), **numbers}


def _declared(name: str, path: Path) -> dict[str, parameters.Parameter]:
    cell = files.tagged(files.read(path), "parameters")
    return parameters.declared(files.source(cell), f"the parameters cell of {name}")
