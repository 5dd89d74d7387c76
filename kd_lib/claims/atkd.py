"""The claims of ATKD, "Reducing the Teacher-Student Gap via Adaptive Temperatures"."""

import pandas as pd

from kd_lib.claims.claim import Claim, by
from kd_lib.claims.compare import against, average, excess, network_mean, network_trend, rest, trend
from kd_lib.claims.printed import cells, over_kd, read, with_sizes
from kd_lib.claims.readings import Reading

LINES = ["5", "9", "11"]  # tables with one student and a line of teachers: ResNets, wide ResNets, ResNets on SVHN
ACCURACY = {"accuracy": "accuracy", "accuracy, data=svhn": "accuracy"}
GAP = {"sharpness gap": "gap_tempered", "sharpness gap, data=svhn": "gap_tempered"}


def _line(metrics: dict[str, str], row: str) -> pd.DataFrame:
    return with_sizes(cells("atkd", LINES, metrics, {row: row}, repeat="table"))


def _alone(table: str, metric: str) -> pd.DataFrame:
    return with_sizes(cells("atkd", table, {metric: metric}, {"Alone": "alone"}))


def _atkd_over_kd(value: str, metrics: dict[str, str], tables: list[str]) -> Reading:
    return read(against(value, "KD"), cells("atkd", tables, metrics, {"KD": "KD", "ATKD": "ATKD"}), "pairs")


def _over_size(value: str, metrics: dict[str, str], row: str) -> Reading:
    return read(trend(value, "teacher_parameters", doubling=True), _line(metrics, row), "tables")


CLAIMS = (
    Claim(
        id="oversized-teacher",
        sentence="KD from the largest teacher makes a worse student than KD from smaller ones",
        paper="atkd",
        place="section 1, Table 1",
        unit="points",
        direction=-1,
        compare=rest("accuracy", "teacher_parameters", within=["network"]),
        notebook="04",
        picks=by("kd"),
        printed=lambda: read(rest("accuracy", "teacher_parameters", within=["table"]), _line(ACCURACY, "KD"), "tables"),
    ),
    Claim(
        id="sharper-with-size",
        sentence="Larger networks are sharper",
        paper="atkd",
        place="Table 2",
        unit="nats a doubling",
        direction=1,
        compare=network_trend("sharpness", "parameters"),
        notebook="02",
        picks=by("alone"),
        printed=lambda: network_trend("sharpness", "parameters")(_alone("2", "sharpness")),
    ),
    Claim(
        id="surer-with-size",
        sentence="Larger networks have less entropy",
        paper="atkd",
        place="section A.3, Table 10",
        unit="nats a doubling",
        direction=-1,
        compare=network_trend("entropy", "parameters"),
        notebook="02",
        picks=by("alone"),
        printed=lambda: network_trend("entropy", "parameters")(_alone("10", "entropy")),
    ),
    Claim(
        id="gap-grows",
        sentence="Under KD the tempered gap grows with the teacher",
        paper="atkd",
        place="section 1, Table 5",
        unit="nats a doubling",
        direction=1,
        compare=trend("gap_tempered", "teacher_parameters", doubling=True, within=["network"]),
        notebook="04",
        picks=by("kd"),
        printed=lambda: _over_size("gap_tempered", GAP, "KD"),
    ),
    Claim(
        id="atkd-narrows-gap",
        sentence="ATKD leaves a smaller tempered gap than KD",
        paper="atkd",
        place="section 2.3, Table 5",
        unit="nats",
        direction=-1,
        compare=against("gap_tempered", "kd", within=["network", "teacher"]),
        notebook="04",
        picks=by("kd", "atkd_16"),
        printed=lambda: _atkd_over_kd("gap_tempered", GAP, LINES),
    ),
    Claim(
        id="atkd-beats-kd",
        sentence="ATKD makes a better student than KD",
        paper="atkd",
        place="Tables 3 and 5",
        unit="points",
        direction=1,
        compare=against("accuracy", "kd", within=["network", "teacher"]),
        notebook="04",
        picks=by("kd", "atkd_16"),
        printed=lambda: _atkd_over_kd("accuracy", ACCURACY, ["3", *LINES]),
    ),
    Claim(
        id="atkd-likes-size",
        sentence="Under ATKD larger teachers make better students",
        paper="atkd",
        place="section 3.2, Table 5",
        unit="points a doubling",
        direction=1,
        compare=trend("accuracy", "teacher_parameters", doubling=True, within=["network"]),
        notebook="04",
        picks=by("atkd_16"),
        printed=lambda: _over_size("accuracy", ACCURACY, "ATKD"),
    ),
    Claim(
        id="early-teacher-softer",
        sentence="A network stopped after a quarter of its training is softer",
        paper="atkd",
        place="section 3.2, Table 7",
        unit="nats",
        direction=-1,
        compare=network_mean("softening"),
        notebook="02",
        picks=by("alone"),
        printed=lambda: read(against("sharpness", "Alone"), cells("atkd", "7", {"sharpness": "sharpness"}), "networks"),
    ),
    Claim(
        id="early-teacher-helps",
        sentence="KD with early stopping makes a better student",
        paper="atkd",
        place="Table 6, rows ES",
        unit="points",
        direction=1,
        compare=against("accuracy", "usual", by="when"),
        notebook="11",
        picks=lambda run, p: by("kd")(run, p) or by("kd", settings=("until_epoch",), at=("early",))(run, p),
        printed=lambda: over_kd("ES", "accuracy", ("atkd", "6")),
    ),
    Claim(
        id="assistant-helps",
        sentence="A teacher assistant makes a better student",
        paper="atkd",
        place="Table 6, rows TA",
        unit="points",
        direction=1,
        compare=against("accuracy", "usual", by="when"),
        notebook="11",
        picks=by("kd", at=("usual", "assisted")),
        printed=lambda: over_kd("TAKD", "accuracy", ("atkd", "6")),
    ),
    Claim(
        id="taylor-formula",
        sentence="The Taylor formula gives the raw gap, to a tenth",
        paper="atkd",
        place="Eq. 9; PESF-KD v1 Eq. 10, v2 Eq. 7",
        unit="%",
        direction=0,
        margin=10.0,
        compare=excess("taylor_gap", "signed_gap"),
        notebook="00",
        picks=by("kd"),
    ),
    Claim(
        id="taylor-orders",
        sentence="With the temperature ATKD's gap falls an order faster than KD's, to a quarter of an order",
        paper="atkd",
        place="section 2.3, Eqs. 11 and 15",
        unit="orders off",
        direction=0,
        margin=0.25,
        compare=average("order_error"),
        notebook="00",
        picks=by("kd"),
    ),
    Claim(
        id="hot-kd-is-regression",
        sentence="At high temperatures KD's gradient is that of regression on logits",
        paper="atkd",
        place="section 2.3, Eqs. 12 to 14",
        unit="1 - cosine",
        direction=0,
        margin=0.01,
        compare=average("angle_to_regression"),
        notebook="00",
        picks=by("kd"),
    ),
)
