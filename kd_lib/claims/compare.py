"""The comparisons that decide claims: each reads an effect with its interval off a table with one row a run.

A table has a column `repeat`, in which runs pair: the seed of our runs, the pair of networks of a paper's cells. Two runs of
one `repeat` share what they can share, so effects are taken within it and averaged over it.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from kd_lib.claims.readings import Missing, Reading, line, mean_interval, slope_interval

RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """Reads an effect off a table.

    Attributes:
        columns: those that hold the compared numbers.
        read: from the table to the effect; raises `Missing` where the table lacks what it needs.
    """

    columns: tuple[str, ...]
    read: Callable[[pd.DataFrame], Reading]

    def __call__(self, table: pd.DataFrame) -> Reading:
        if table.empty:
            raise Missing("no runs")
        return self.read(table)


def against(value: str, baseline: Hashable, *, by: str = "method", within: Sequence[str] = ()) -> Comparison:
    """How far the other entries of `by` lie above the baseline of the same `repeat` (and of the same group `within`).

    Differences of several entries or groups are averaged within a `repeat`; one in which any is missing is left out.
    """

    def compare(table: pd.DataFrame) -> Reading:
        wide = _wide(table, value, [by, *within])
        names = dict.fromkeys(wide.columns.get_level_values(0))
        others = [name for name in names if name != baseline]
        if baseline not in names or not others:
            raise Missing(f"{baseline} and something beside it are needed, found {', '.join(map(str, names))}")
        parts = [wide[name].sub(wide[baseline]) for name in others]
        return _over_repeats(pd.concat(parts, axis=1).dropna(axis=1, how="all"))

    return Comparison((value,), compare)


def rest(value: str, x: str, *, within: Sequence[str] = ()) -> Comparison:
    """How far the value at the largest x lies above the mean of those at smaller x, within each `repeat` and group."""

    def compare(table: pd.DataFrame) -> Reading:
        found: dict[Hashable, list[float]] = {}
        for _, group in _groups(table, within):
            wide = _wide(group, value, [x])
            below = wide.drop(columns=wide.columns.max()).mean(axis=1, skipna=False)
            for repeat, difference in (wide[wide.columns.max()] - below).dropna().items():
                found.setdefault(repeat, []).append(difference)
        return mean_interval([float(np.mean(parts)) for parts in found.values()])

    return Comparison((value, x), compare)


def trend(value: str, x: str, *, doubling: bool = False, within: Sequence[str] = ()) -> Comparison:
    """Slope of the value over x (with `doubling` over log2 x) within each `repeat`."""

    def compare(table: pd.DataFrame) -> Reading:
        slopes: dict[Hashable, list[float]] = {}
        for repeat, runs in _require(table, [value, x]).groupby("repeat"):
            for _, part in _groups(runs, within):
                if part[x].nunique() > 1:
                    at = np.log2(part[x].to_numpy(float)) if doubling else part[x]
                    slopes.setdefault(repeat, []).append(line(at, part[value])[0])
        return mean_interval([float(np.mean(parts)) for parts in slopes.values()])

    return Comparison((value, x), compare)


def average(value: str) -> Comparison:
    """Mean of the value in each `repeat`, against zero."""

    def compare(table: pd.DataFrame) -> Reading:
        return mean_interval(_require(table, [value]).groupby("repeat")[value].mean())

    return Comparison((value,), compare)


def excess(value: str, base: str) -> Comparison:
    """By how many percent the mean of one column lies above the mean of another, within each `repeat`."""

    def compare(table: pd.DataFrame) -> Reading:
        means = _require(table, [value, base]).groupby("repeat")[[value, base]].mean()
        return mean_interval(100 * (means[value] / means[base] - 1))

    return Comparison((value, base), compare)


def narrowing(alone: str = "alone") -> Comparison:
    """How much wider the gap to a teacher is for its students than for the same network trained alone, teacher by teacher.

    The table holds `sharpness` of all students and `teacher_sharpness` of the taught ones.
    """

    def compare(table: pd.DataFrame) -> Reading:
        table = _require(table, ["sharpness"])
        untaught = table.loc[table["method"] == alone, ["repeat", "network", "sharpness"]]
        taught = _require(table[table["method"] != alone], ["teacher_sharpness"])
        pairs = taught.merge(untaught, on=["repeat", "network"], suffixes=("", "_alone"))
        gaps = [(pairs["teacher_sharpness"] - pairs[name]).abs() for name in ("sharpness", "sharpness_alone")]
        return mean_interval((gaps[0] - gaps[1]).groupby(pairs["repeat"]).mean())

    return Comparison(("sharpness", "teacher_sharpness"), compare)


def network_trend(value: str, x: str, *, unit: str = "network", over: str = "networks") -> Comparison:
    """Slope of the value over log2 x, a point for each entry of `unit`; the entries, not the seeds, are what is repeated."""

    def compare(table: pd.DataFrame) -> Reading:
        means = _require(table, [value, x]).groupby(unit)[[value, x]].mean()
        return slope_interval(np.log2(means[x]), means[value], over)

    return Comparison((value, x), compare)


def network_mean(value: str, *, unit: str = "network", over: str = "networks") -> Comparison:
    """Mean of the value over the entries of `unit`, against zero."""

    def compare(table: pd.DataFrame) -> Reading:
        return mean_interval(_require(table, [value]).groupby(unit)[value].mean(), over)

    return Comparison((value,), compare)


def rank_correlation(x: str, y: str, *, by: str = "method", over: str = "methods") -> Comparison:
    """Spearman's correlation of x and y over the entries of `by`, within each `repeat`, then averaged.

    The interval is a bootstrap's: the entries are drawn anew, each with all its repeats, because it is other methods to which
    the claim should carry over.
    """

    def compare(table: pd.DataFrame) -> Reading:
        wide = [_wide(table, column, ["repeat"], index=by) for column in (x, y)]
        complete = wide[0].notna().all(axis=1) & wide[1].notna().all(axis=1)
        if complete.sum() < 4:
            raise Missing(f"a correlation over {over} needs 4 of them, found {complete.sum()}")
        both = np.stack([part[complete].to_numpy(float) for part in wide])  # [2, entries, repeats]
        n = both.shape[1]
        draws = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
        drawn = _spearman(both[:, draws])  # a draw of one entry alone has no correlation
        low, high = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975])
        return Reading(float(_spearman(both)), float(low), float(high), n, over)

    return Comparison((x, y), compare)


def _spearman(both: np.ndarray) -> np.ndarray:
    """Mean over repeats of the rank correlations; entries and repeats are the last two axes of each side."""
    ranks = rankdata(both, axis=-2)
    x, y = ranks - ranks.mean(axis=-2, keepdims=True)
    with np.errstate(invalid="ignore"):
        rho = (x * y).sum(axis=-2) / np.sqrt((x * x).sum(axis=-2) * (y * y).sum(axis=-2))
    return rho.mean(axis=-1)


def _require(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows that have a value in each of the columns."""
    lost = [column for column in ("repeat", *columns) if column not in table.columns]
    if lost:
        raise Missing(f"no {', '.join(lost)}")
    return table.dropna(subset=list(columns))


def _wide(table: pd.DataFrame, value: str, columns: list[str], *, index: str = "repeat") -> pd.DataFrame:
    """The values with a line for each entry of `index`.

    Raises:
        ValueError: two runs in one cell, which would be one claim about two things.
    """
    table = _require(table, [value, *columns])
    twice = table[table.duplicated(list(dict.fromkeys([index, *columns])))]
    if len(twice):
        raise ValueError(f"two runs stand for one {index}, {', '.join(columns)}: {twice.iloc[0][columns].tolist()}")
    return table.pivot(index=index, columns=columns[0] if len(columns) == 1 else columns, values=value)


def _groups(table: pd.DataFrame, within: Sequence[str]) -> list[tuple[object, pd.DataFrame]]:
    return list(table.groupby(list(within))) if within else [((), table)]


def _over_repeats(parts: pd.DataFrame) -> Reading:
    """Mean over the columns in each line that is complete, then over the lines."""
    return mean_interval(parts.dropna().mean(axis=1))
