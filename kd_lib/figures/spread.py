"""Mean, spread and paired differences over seeds."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from kd_lib.errors import unknown

SPREADS = {"interval": "half_width", "std": "std", "none": None}


def require_columns(table: pd.DataFrame, columns: Iterable[Hashable]) -> None:
    """Raises a ValueError for the first column that the table lacks."""
    for column in columns:
        if column not in table.columns:
            raise unknown("column", column, table.columns)


def require_spread(spread: str) -> None:
    """Raises a ValueError where error bars of this kind are not drawn."""
    if spread not in SPREADS:
        raise unknown("spread", spread, SPREADS)


def mean_and_spread(
    table: pd.DataFrame, by: str | Sequence[str], value: str, *, over: str | None = "seed"
) -> pd.DataFrame:
    r"""Mean of each group and how far it can be trusted.

    .. math:: \mathrm{half\_width} = t_{0.975,\,n-1} \cdot \mathrm{std} / \sqrt{n}

    so that mean +- half_width is the 95% interval of the mean under normally distributed seeds; std is the sample's.

    Args:
        table: one row a run.
        by: column or columns that make the groups; groups stay in order of first appearance, a missing value is a group
            of its own.
        value: the averaged column.
        over: the column that counts repetitions; no value of it may stand twice in a group, because rows that differ in
            something else would be averaged in silence. None: nothing was repeated, each group is one row.
    Returns:
        One row a group: the columns of `by`, mean, std, n, half_width; std and half_width are NaN where n is 1.
    Raises:
        ValueError: a column is missing, a value is NaN or infinite, a group holds a repetition twice.
    """
    keys = [by] if isinstance(by, str) else list(by)
    require_columns(table, [*keys, value, *([over] if over else [])])
    bad = table[~np.isfinite(table[value].astype(float))]
    if len(bad):
        raise ValueError(f"{value} is not a finite number in {len(bad)} rows, first {_name(bad.iloc[0], keys)}")
    repeated = [*keys, over] if over else keys
    twice = table[table.duplicated(repeated)]
    if len(twice):
        advice = "group by what differs" if over else "name the column of repetitions in `over`"
        raise ValueError(f"{_name(twice.iloc[0], repeated)} stands in more than one row: {advice}")
    groups = table.assign(**{value: table[value].astype(float)}).groupby(keys, sort=False, dropna=False)[value]
    result = groups.agg(mean="mean", std="std", n="size").reset_index()
    result["half_width"] = stdtrit(result["n"] - 1, 0.975) * result["std"] / np.sqrt(result["n"])
    return result


def paired_values(
    table: pd.DataFrame, by: str, value: str, *, baseline: Hashable, pair: str = "seed", within: Sequence[str] = ()
) -> pd.DataFrame:
    """Each run's value minus the baseline's with the same seed.

    Args:
        table: one row a run.
        by: the column whose entries are compared ("method").
        value: the compared column.
        baseline: the entry of `by` that is subtracted.
        pair: the column that pairs the runs.
        within: further columns in which the two runs must agree ("teacher").
    Returns:
        The columns of `within`, by, pair and `difference`, one row for each run that is not the baseline's, in the
        table's order.
    Raises:
        ValueError: a column or the baseline is missing, a run has no partner, a pair stands twice.
    """
    keys = [*within, pair]
    require_columns(table, [*keys, by, value])
    if baseline not in set(table[by]):
        raise unknown(f"baseline in {by}", baseline, table[by].unique())
    twice = table[table.duplicated([*keys, by])]
    if len(twice):
        raise ValueError(
            f"{_name(twice.iloc[0], [*keys, by])} stands in more than one row: name what differs in `within`"
        )
    base = table[table[by] == baseline].set_index(keys)[value]
    others = table[table[by] != baseline]
    partner = others[keys].apply(tuple, axis=1) if within else others[pair]
    lonely = others[~partner.isin(base.index)]
    if len(lonely):
        raise ValueError(f"{_name(lonely.iloc[0], [*keys, by])} has no partner in {by} {baseline}")
    difference = others[value].to_numpy(float) - base.loc[partner.tolist()].to_numpy(float)
    return others[[*within, by, pair]].assign(difference=difference).reset_index(drop=True)


def paired_difference(
    table: pd.DataFrame, by: str, value: str, *, baseline: Hashable, pair: str = "seed", within: Sequence[str] = ()
) -> pd.DataFrame:
    """Mean difference to the baseline over pairs of equal seed, with its 95% t interval.

    Arguments and errors are those of `paired_values`. What two runs of one seed share (data order, initialisation)
    cancels.

    Returns:
        One row for each entry of `by` but the baseline (and each group of `within`): mean, std and n of the
        differences, half_width of the interval.
    """
    pairs = paired_values(table, by, value, baseline=baseline, pair=pair, within=within)
    return mean_and_spread(pairs, [*within, by], "difference", over=pair)


def spread_note(
    summary: pd.DataFrame, spread: str, *, of: str = "mean", shape: str = "bars", over: str | None = "seed"
) -> str:
    """What error bars are, in words: "bars: 95% t interval of the mean, 3 seeds"; empty where none are drawn."""
    require_spread(spread)
    if over is None or SPREADS[spread] is None:
        return ""
    low, high = int(summary["n"].min()), int(summary["n"].max())
    count = f"{low} {over}{'s' if low > 1 else ''}" if low == high else f"{low} to {high} {over}s"
    if high == 1:
        return f"1 {over}, so no {shape}"
    return f"{shape}: {f'95% t interval of the {of}' if spread == 'interval' else 'standard deviation'}, {count}"


def _name(row: pd.Series, keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {row[key]}" for key in keys)
