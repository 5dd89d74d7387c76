"""Which printed cells stand beside a number of ours: the same networks, the same data, the same protocol."""

import pandas as pd

from kd_lib import papers
from kd_lib.claims.evidence import Evidence
from kd_lib.claims.measures import when
from kd_lib.config import Run, protocol
from kd_lib.figures import mean_and_spread

METRICS = {"accuracy": "accuracy", "accuracy, data=svhn": "accuracy", "sharpness": "sharpness", "entropy": "entropy"}
"""Printed metrics that are ours too. The papers do not state how their sharpness gaps are reduced, so those are not."""
IMAGENET = {("pesf_v1", "3"), ("pesf_v2", "2"), ("pesf_v2", "9"), ("atkd", "4"), ("atkd", "6"), ("sftn", "3")}
SVHN = {("atkd", "11")}
PROTOCOL = ("epochs", "batch_size", "lr", "momentum", "weight_decay", "optimiser", "schedule", "milestones")
CELL = ["paper", "table", "row", "pair", "metric", "printed"]


def printed_cells() -> pd.DataFrame:
    """All printed cells of metrics that we measure too: `CELL`, the data they are of, and the two networks."""
    found = papers.load()
    found = found[found["metric"].isin(METRICS) & (found["table"] != "text")].copy()
    places = list(zip(found["paper"], found["table"], strict=True))
    found["data"] = ["imagenet" if p in IMAGENET else "svhn" if p in SVHN else "cifar100" for p in places]
    found[["teacher", "student"]] = found["pair"].str.rpartition("->")[[0, 2]]
    return found.reset_index(drop=True)


def as_printed(run: Run) -> bool:
    """Whether a run follows the papers' protocol: that of its data set, and nothing of the method changed."""
    if run.data not in ("cifar100", "svhn", "imagenet") or run.data_settings or run.settings or run.split != "test":
        return False
    usual = Run(network=run.network, **protocol(run.data))
    same = all(getattr(run, name) == getattr(usual, name) for name in PROTOCOL)
    return same and when(run) in ("alone", "usual", "together")


def beside_print(evidence: Evidence) -> pd.DataFrame:
    """Printed cells with our number beside each, from the runs in the store.

    Args:
        evidence: of one scale.
    Returns:
        One row a cell: paper, table, row, pair, metric, printed, ours (the mean over seeds), std, n, keys. Empty where no run
        of the scale follows the papers' protocol.
    """
    cells = printed_cells()
    runs = {run.key: run for number in evidence.notebooks for run in evidence.notebook(number).runs if as_printed(run)}
    lines = [line for run in runs.values() for line in _lines(run, cells, evidence)]
    table = pd.DataFrame(lines, columns=[*CELL, "seed", "key", "ours"])
    found = mean_and_spread(table, CELL, "ours").rename(columns={"mean": "ours"}).drop(columns="half_width")
    keys = table.groupby(CELL, sort=False)["key"].agg(" ".join)
    return found.join(keys.rename("keys"), on=CELL)


def _lines(run: Run, cells: pd.DataFrame, evidence: Evidence) -> list[dict[str, object]]:
    """The cells that this run is a repetition of."""
    names = [name.removeprefix("torchvision-") for name in (run.teacher.network if run.teacher else "", run.network)]
    if run.peers:
        names[0] = run.peers[0]
    pair = (
        (cells["teacher"] == names[0]) & (cells["student"] == names[1]) & (cells["row"] == papers.ROWS.get(run.method))
    )
    if run.method == "alone":
        roles = {"Teacher": cells["teacher"], "Student": cells["student"]}
        pair |= pd.concat([(cells["row"] == role) & (at == names[1]) for role, at in roles.items()], axis=1).any(axis=1)
    mine = cells[pair & (cells["data"] == run.data)]
    numbers = evidence.numbers(run, {METRICS[metric] for metric in mine["metric"]})
    if numbers is None:
        return []
    return [
        {**cell, "seed": run.seed, "key": run.key, "ours": numbers[METRICS[cell["metric"]]]}
        for cell in mine[CELL].to_dict("records")
    ]
