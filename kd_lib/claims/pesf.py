"""The claims of the two versions of PESF-KD about accuracy, choices and cost."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from kd_lib.claims.claim import Claim, by
from kd_lib.claims.compare import Comparison, against, trend
from kd_lib.claims.measures import when
from kd_lib.claims.printed import cells, over_kd, read
from kd_lib.claims.readings import Missing, Reading, slope_interval
from kd_lib.config import Run

ADJUSTED = {"kd_adjusted": "kd", "ft_kd": "ft_kd_plain", "pesf_kd": "pesf_kd_plain"}
"""Methods with label adjustment, and the same without."""
PLUS = {"KD": "KD + PESF-KD", "PKT": "PKT + PESF-KD", "CRD": "CRD + PESF-KD", "RKD": "RKD + PESF-KD"}
TASK_CLASSES = {"RTE": 2, "SST-2": 2, "QQP": 2}  # of the printed tasks; v2 Table 6
CIFAR, IMAGENET = 100, 1000


def gain_over_classes(method: str, baseline: str) -> Comparison:
    """Slope over log2 of the number of classes of what a method gains over the baseline, within each pair of networks."""
    pair = ["network", "teacher"]

    def compare(table: pd.DataFrame) -> Reading:
        wide = table.pivot(index=["repeat", "classes", *pair], columns="method", values="accuracy")
        if not {method, baseline} <= set(wide):
            raise Missing(f"{method} and {baseline} are needed, found {', '.join(wide)}")
        gain = (wide[method] - wide[baseline]).dropna().rename("gain").reset_index()
        return trend("gain", "classes", doubling=True, within=pair)(gain)

    return Comparison(("accuracy", "classes"), compare)


def adjustment() -> Comparison:
    """What label adjustment adds, over the methods that have it."""

    def compare(table: pd.DataFrame) -> Reading:
        base = table["method"].map(ADJUSTED).fillna(table["method"])
        kind = table["method"].isin(ADJUSTED).map({True: "adjusted", False: "plain"})
        return against("accuracy", "plain", by="kind", within=["base"])(table.assign(base=base, kind=kind))

    return Comparison(("accuracy",), compare)


def _printed_adjustment() -> Reading:
    parts = {"adjusted": "4", "plain": "12"}
    found = [
        cells("pesf_v2", table, {"accuracy": "accuracy"}, dict.fromkeys(PLUS.values(), kind), repeat="row")
        for kind, table in parts.items()
    ]
    return read(against("accuracy", "plain"), pd.concat(found), "losses")


def _printed_addition() -> Reading:
    names = {row: "frozen" for row in PLUS if row != "KD"} | {PLUS[row]: "adapter" for row in PLUS if row != "KD"}
    found = cells("pesf_v2", "4", {"accuracy": "accuracy"}, names)
    found["repeat"] = found["row"].str.removesuffix(" + PESF-KD")
    return read(against("accuracy", "frozen"), found, "losses")


def _printed_gain_over_classes() -> Reading:
    """A point for each pair of networks or task that PESF-KD v2 prints; the slope is over them."""
    texts = {"RTE accuracy delta": "value", "SST-2 accuracy delta": "value", "QQP F1 delta": "value"}
    gains = [(2, cells("pesf_v2", "3", {metric: "value"}, {"PESF-KD": "PESF-KD"})["value"]) for metric in texts]
    for classes, table in ((CIFAR, "1"), (IMAGENET, "2")):
        both = cells("pesf_v2", table, {"accuracy": "value"}, {"KD": "KD", "PESF-KD": "PESF-KD"})
        wide = both.pivot(index="repeat", columns="method", values="value")
        gains.append((classes, wide["PESF-KD"] - wide["KD"]))
    x = np.repeat([np.log2(classes) for classes, _ in gains], [len(values) for _, values in gains])
    return slope_interval(x, np.concatenate([values for _, values in gains]), "pairs and tasks")


def _printed_time(row: str) -> Reading:
    found = cells("pesf_v1", ["1", "3"], {"batch time": "seconds"}, {"KD": "KD", row: row})
    return read(against("doublings", "KD"), found.assign(doublings=np.log2(found["seconds"])), "pairs")


def _printed_online() -> Reading:
    rows = {"KD": "KD", "KDCL": "KDCL", "DML": "DML"}
    return read(against("accuracy", "KD"), cells("pesf_v2", "1", {"accuracy": "accuracy"}, rows), "pairs")


def _swept(name: str, *others: str):
    """Picks PESF-KD's runs in which this setting (and what must change with it) was changed."""
    return by("pesf_kd", settings=(name, *others))


def _more_classes(run: Run, parameters: Mapping[str, Any]) -> bool:
    return run.method in ("kd", "pesf_kd") and not run.settings and when(run) == "usual"


CLAIMS = (
    Claim(
        id="ft-beats-kd",
        sentence="FT-KD makes a better student than KD",
        paper="pesf_v2",
        place="Tables 1 and 2",
        unit="points",
        direction=1,
        compare=against("accuracy", "kd"),
        notebook="05",
        picks=by("kd", "ft_kd"),
        printed=lambda: over_kd("FT-KD", "accuracy", ("pesf_v2", "1"), ("pesf_v2", "2")),
    ),
    Claim(
        id="pesf-beats-kd",
        sentence="PESF-KD makes a better student than KD",
        paper="pesf_v2",
        place="Tables 1 and 2",
        unit="points",
        direction=1,
        compare=against("accuracy", "kd"),
        notebook="05",
        picks=by("kd", "pesf_kd"),
        printed=lambda: over_kd("PESF-KD", "accuracy", ("pesf_v2", "1"), ("pesf_v2", "2")),
    ),
    Claim(
        id="adjustment-helps",
        sentence="Label adjustment makes a better student",
        paper="pesf_v2",
        place="section 3.1, Tables 4 and 12",
        unit="points",
        direction=1,
        compare=adjustment(),
        notebook="05",
        picks=by(*ADJUSTED, *ADJUSTED.values()),
        printed=_printed_adjustment,
    ),
    Claim(
        id="rank-hardly-matters",
        sentence="The adapter's rank hardly matters",
        paper="pesf_v2",
        place="section A.3.3, Fig. 13 (a drop below 0.3 from 96 to 16)",
        unit="points a doubling",
        direction=0,
        margin=0.12,  # 0.3 points over the 2.6 doublings from 16 to 96
        compare=trend("accuracy", "rank", doubling=True),
        notebook="07",
        picks=_swept("rank"),
    ),
    Claim(
        id="more-kd-helps",
        sentence="A larger weight of PESF-KD's KL makes a better student",
        paper="pesf_v1",
        place="section 5.4, Fig. 10",
        unit="points a unit",
        direction=1,
        compare=trend("accuracy", "kd_weight"),
        notebook="07",
        picks=_swept("kd_weight", "ce_weight"),
    ),
    Claim(
        id="adapter-adds",
        sentence="An adapter adds to PKT, CRD and RKD",
        paper="pesf_v2",
        place="Table 4; v1 Table 6",
        unit="points",
        direction=1,
        compare=against("accuracy", "frozen", by="policy", within=["method"]),
        notebook="09",
        picks=lambda run, p: run.method in ("pkt", "crd", "rkd"),
        printed=_printed_addition,
    ),
    Claim(
        id="more-classes-more-gain",
        sentence="PESF-KD's gain over KD grows with the number of classes",
        paper="pesf_v2",
        place="section 5.2, finding 3",
        unit="points a doubling",
        direction=1,
        compare=gain_over_classes("pesf_kd", "kd"),
        notebook="12",
        picks=_more_classes,
        printed=_printed_gain_over_classes,
    ),
    Claim(
        id="online-beats-offline",
        sentence="Learning together (DML, KDCL) makes a better student than a frozen teacher",
        paper="pesf_v2",
        place="section 5.2, Table 1; v1 section 5.3.1",
        unit="points",
        direction=1,
        compare=against("accuracy", "kd"),
        notebook="11",
        picks=by("kd", "dml", "kdcl_naive"),
        printed=_printed_online,
    ),
    Claim(
        id="ft-is-slow",
        sentence="A step of FT-KD takes longer than one of KD (about twice as long)",
        paper="pesf_v1",
        place="Tables 1 and 3",
        unit="doublings of time",
        direction=1,
        compare=against("doublings", "kd"),
        notebook="",
        printed=lambda: _printed_time("FT-KD"),
    ),
    Claim(
        id="adapter-is-cheap",
        sentence="A step of PESF-KD takes hardly longer than one of KD",
        paper="pesf_v1",
        place="Tables 1 and 3",
        unit="doublings of time",
        direction=0,
        margin=0.25,  # a fifth more or less
        compare=against("doublings", "kd"),
        notebook="",
        printed=lambda: _printed_time("PESF-KD"),
    ),
)
