"""The papers' printed numbers in the shape of our tables, so that one comparison reads both."""

from collections.abc import Mapping

import pandas as pd

from kd_lib import papers
from kd_lib.claims.compare import Comparison, against
from kd_lib.claims.measures import parameters
from kd_lib.claims.readings import Reading

SUMMARIES = ("Average", "Best", "mean of 4 pairs")  # no cells of their own


def read(compare: Comparison, table: pd.DataFrame, over: str) -> Reading:
    """The comparison of a table of printed cells, in which `over` is what was repeated."""
    return compare(table)._replace(over=over)


def cells(
    paper: str,
    tables: str | list[str],
    metrics: Mapping[str, str],
    rows: Mapping[str, str] | None = None,
    *,
    repeat: str = "pair",
) -> pd.DataFrame:
    """Printed cells with a line for each row of the paper, pair of networks and table.

    Args:
        paper, tables: as in `papers.load`.
        metrics: the printed metrics that are read, each with the column it becomes.
        rows: the printed rows that are read, each with the `method` it becomes; None reads all but averages, as they are.
        repeat: "pair", "row" or "table": what pairs the cells.
    Returns:
        method, repeat, table, pair, teacher, network and the metrics' columns.
    """
    found = papers.load(paper, table=tables, column=list(metrics))
    found = found[~found["pair"].isin(SUMMARIES) & ~found["row"].isin(SUMMARIES)]
    named = found["row"].map(rows) if rows is not None else found["row"]
    found = found.assign(column=found["metric"].map(metrics), method=named).dropna(subset="method")
    lines = found.pivot(index=["table", "pair", "row", "method"], columns="column", values="value").reset_index()
    ends = lines["pair"].str.rpartition("->")  # a network alone has no arrow
    lines["teacher"], lines["network"] = ends[0], ends[2]
    return lines.assign(repeat=lines["pair"] + " " + lines["table"] if repeat == "pair" else lines[repeat])


def over_kd(row: str, metric: str, *places: tuple[str, str]) -> Reading:
    """One printed row minus KD's, over pairs of networks; `places` are papers with a table each."""
    parts = [cells(paper, table, {metric: "value"}, {"KD": "KD", row: row}) for paper, table in places]
    return read(against("value", "KD"), pd.concat(parts), "pairs")


def with_sizes(lines: pd.DataFrame) -> pd.DataFrame:
    """Printed lines with `parameters` and `teacher_parameters`, as the networks have them for CIFAR-100."""
    sizes = {name: parameters(name) for name in {*lines["network"], *lines["teacher"]} - {""}}
    return lines.assign(parameters=lines["network"].map(sizes), teacher_parameters=lines["teacher"].map(sizes))
