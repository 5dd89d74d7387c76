"""The numbers the four papers print, as data: every cell of every results table, and the inconsistencies among them.

One CSV a paper lies beside this file, one line a printed number. `value` there is the number as printed, trailing
zeros included; rows carry one spelling of a method in all tables, columns read "pair | metric". Table "text" holds
numbers that stand in the prose only. PESF-KD v2's Table 5 has no cells in the text at hand and is not here.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pandas as pd

from kd_lib.errors import unknown
from kd_lib.papers.comparison import ROWS, TITLES, beside

__all__ = ["COLUMNS", "FOLDER", "PAPERS", "ROWS", "SEPARATOR", "beside", "caveats", "inconsistencies", "load"]

FOLDER = Path(__file__).parent
PAPERS = ("pesf_v1", "pesf_v2", "atkd", "sftn")
COLUMNS = ("paper", "table", "row", "column", "value", "spread", "unit", "note")
SEPARATOR = " | "

Names = str | Iterable[str] | None


def load(paper: Names = None, *, table: Names = None, row: Names = None, column: Names = None) -> pd.DataFrame:
    """The printed numbers, those of all papers under each other, or the ones that every filter lets through.

    Args:
        paper: one of PAPERS or a list of them; None lets all through, as for the other filters.
        table: the table's number as printed ("1"), or "text" for the prose.
        row: the method or line of the table ("PESF-KD").
        column: a whole column ("resnet56->resnet20 | accuracy"), a pair of networks alone or a metric alone; of a
            list, lines pass that have any of its names.
    Returns:
        The columns of the CSV files with `value` and `spread` (NaN where none is printed) as floats, and three more:
        `pair` and `metric`, the two parts of `column`, and `printed`, the value with its trailing zeros.
    Raises:
        ValueError: a name that does not occur in what the filters before it (in the order of the arguments) left; the
            message holds the nearest.
    """
    frame = pd.concat([_read(name) for name in PAPERS], ignore_index=True)
    frame = _keep(frame, "paper", paper, ["paper"])
    frame = _keep(frame, "table", table, ["table"])
    frame = _keep(frame, "row", row, ["row"])
    return _keep(frame, "column", column, ["column", "pair", "metric"]).reset_index(drop=True)


def inconsistencies() -> pd.DataFrame:
    """What does not agree within or between the papers: id, papers, where, claim, evidence and our reading of it."""
    return pd.read_csv(FOLDER / "inconsistencies.csv", dtype=str, keep_default_na=False)


def caveats(*ids: str) -> str:
    """Known inconsistencies as lines of Markdown: where, what the paper says, what we make of it.

    Args:
        ids: of `inconsistencies`, those that touch a table which is shown.
    Raises:
        ValueError: an id that does not exist; the message holds the nearest.
    """
    known = inconsistencies().set_index("id")
    for name in ids:
        if name not in known.index:
            raise unknown("inconsistency", name, known.index)
    return "Mind, in the printed numbers:\n\n" + "\n".join(_caveat(known.loc[name]) for name in ids)


def _caveat(line: pd.Series) -> str:
    titles = {TITLES[paper].partition(" v")[0] for paper in line["papers"].split()}
    whose = f"{titles.pop()} " if len(titles) == 1 else ""  # of several papers `where` names each
    return f"- {whose}{line['where']}, “{line['claim']}”: {line['reading']}"


@cache
def _read(paper: str) -> pd.DataFrame:
    """One paper's CSV with the derived columns; text stays text, so that a table "1" is not the number 1."""
    frame = pd.read_csv(FOLDER / f"{paper}.csv", dtype=str, keep_default_na=False)
    parts = [column.partition(SEPARATOR) for column in frame["column"]]
    frame["pair"] = [pair for pair, _, _ in parts]
    frame["metric"] = [metric for _, _, metric in parts]
    frame["printed"] = frame["value"]
    frame["value"] = frame["value"].astype(float)
    frame["spread"] = pd.to_numeric(frame["spread"])
    return frame


def _keep(frame: pd.DataFrame, what: str, names: Names, fields: list[str]) -> pd.DataFrame:
    """The lines in which one of the fields is one of the names."""
    if names is None:
        return frame
    wanted = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else [names]
    for name in wanted:
        if not frame[fields].eq(name).any(axis=None):
            # Whole columns are many: one that was not meant to be whole is told the pairs and metrics only.
            near = fields[1:] if len(fields) > 1 and SEPARATOR not in str(name) else fields[:1]
            raise unknown(f"{what} of the papers' numbers", name, dict.fromkeys(frame[near].stack()))
    return frame[frame[fields].isin(wanted).any(axis=1)]
