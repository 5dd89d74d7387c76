"""Our runs beside the printed numbers, each side under its own scale."""

from collections.abc import Mapping

import pandas as pd

from kd_lib.errors import unknown
from kd_lib.figures.spread import mean_and_spread, require_columns

TITLES = {"pesf_v1": "PESF-KD v1", "pesf_v2": "PESF-KD v2", "atkd": "ATKD", "sftn": "SFTN"}
ROWS = {
    **{"teacher": "Teacher", "alone": "Alone", "kd": "KD", "atkd_16": "ATKD", "ft_kd": "FT-KD", "pesf_kd": "PESF-KD"},
    **{"fitnet": "FitNet", "at": "AT", "sp": "SP", "cc": "CC", "vid": "VID", "rkd": "RKD", "pkt": "PKT", "nst": "NST"},
    **{"ab": "AB", "ft": "FT", "fsp": "FSP", "crd": "CRD", "sskd": "SSKD", "ofd": "OFD", "dml": "DML"},
}
"""Names of our methods and of the papers' rows. ATKD is our reading with scale 16 (notebook 04)."""


def beside(
    table: pd.DataFrame,
    printed: pd.DataFrame,
    metrics: Mapping[str, str],
    *,
    scale: str,
    caption: str = "",
    rows: Mapping[str, str] = ROWS,
    baseline: str | None = None,
    protocol: str = "CIFAR-100, 240 epochs",
) -> pd.DataFrame:
    """Our means over seeds beside the printed numbers, each side under its own scale.

    Values of two scales are not to be compared. What can be compared is the order of the rows, or the difference to a
    baseline in the same column.

    Args:
        table: one row a run, as from `tables.summary`: network, teacher ("" for none), method, seed and our metrics.
        printed: lines of `papers.load`, of one table or more.
        metrics: for each of the paper's metrics that is shown our column, in the paper's unit.
        scale: of our runs: "smoke", "demo", "short", "paper".
        caption: what was run, as under the figures.
        rows: our methods' names and the printed rows they belong to. What only we have is left out.
        baseline: a printed row; each other cell ends with its difference to it, in brackets.
        protocol: the scale of the printed side.
    Returns:
        Text: as printed, or mean ± standard deviation over seeds; empty where a side has no such row. One line a metric and
        row, in the paper's order; one column a side and pair of networks, ours first.
    Raises:
        ValueError: a column, metric or baseline that is not there; runs of one row that differ in more than the seed; no run
            that belongs to a printed row.
    """
    theirs = _theirs(printed, metrics, protocol)
    place = {metric: i for i, metric in enumerate(metrics)}
    lines = theirs[["metric", "row"]].drop_duplicates()
    lines = lines.sort_values("metric", key=lambda names: names.map(place), kind="stable")
    ours = _means(table, metrics, rows).merge(lines)
    if ours.empty:
        raise ValueError(f"none of our methods {sorted(set(table['method']))} has one of the rows {list(lines['row'])}")
    ours["side"] = f"ours, {scale} scale" + (f": {caption}" if caption else "")
    both = pd.concat([ours, theirs], ignore_index=True)
    both["text"] = _texts(both, baseline)
    columns = both[["side", "pair"]].drop_duplicates()
    wide = both.pivot(index=["metric", "row"], columns=["side", "pair"], values="text")
    return wide.reindex(index=pd.MultiIndex.from_frame(lines), columns=pd.MultiIndex.from_frame(columns)).fillna("")


def _theirs(printed: pd.DataFrame, metrics: Mapping[str, str], protocol: str) -> pd.DataFrame:
    """The printed numbers that are shown, with the side they stand on."""
    for metric in metrics:
        if metric not in set(printed["metric"]):
            raise unknown("metric of these printed numbers", metric, printed["metric"].unique())
    theirs = printed[printed["metric"].isin(metrics)]
    titles = theirs["paper"].map(TITLES) + " Table " + theirs["table"]
    return theirs.assign(side=titles + f": {protocol}")


def _means(table: pd.DataFrame, metrics: Mapping[str, str], rows: Mapping[str, str]) -> pd.DataFrame:
    """Our side in the columns of the printed one: row, pair, metric, value, spread, and no printed text."""
    require_columns(table, ["network", "teacher", "method"])
    pair = (table["teacher"] + "->").where(table["teacher"] != "", "") + table["network"]
    ours = table.assign(pair=pair, row=table["method"].map(rows)).dropna(subset="row")
    parts = []
    for metric, column in metrics.items():
        require_columns(ours, [column])
        has_it = ours.groupby(["row", "pair"])[column].transform("count") > 0  # a network alone has no gap
        parts.append(mean_and_spread(ours[has_it], ["row", "pair"], column).assign(metric=metric))
    return pd.concat(parts).rename(columns={"mean": "value", "std": "spread"}).assign(printed="")


def _texts(both: pd.DataFrame, baseline: str | None) -> list[str]:
    """What stands in the cells."""
    if baseline is not None and baseline not in set(both["row"]):
        raise unknown("baseline row", baseline, both["row"].unique())
    column = ["side", "pair", "metric"]
    reference = both[both["row"] == baseline].set_index(column)["value"].rename("reference")
    texts = []
    for cell in both.join(reference, on=column).itertuples():
        text = cell.printed or f"{cell.value:.2f}"
        if pd.notna(cell.spread):
            text += f" ± {cell.spread:.2f}"
        if cell.row != baseline and pd.notna(cell.reference):
            text += f" ({cell.value - cell.reference:+.2f})"
        texts.append(text)
    return texts
