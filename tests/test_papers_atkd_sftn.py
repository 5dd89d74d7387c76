"""The numbers of ATKD and SFTN: typed as printed, in their places, and every printed contradiction listed."""

from decimal import Decimal
from itertools import product

import pytest
from printed_tables import FRIENDLY, NOT_METHODS, STANDARD

from kd_lib import papers

# By table: how many numbers, and what they add up to. Counted and added from the tokens of the papers' text, not from
# the CSVs; ATKD's Table 8 without the two numbers that it prints twice.
CHECKSUMS = {
    "atkd": (
        "1: 15 707.87, 2: 6 85.10, 3: 111 8017.79, 4: 8 565.86, 5: 30 700.99, 6: 11 783.75, 7: 11 156.56, "
        "8: 22 753.08, 9: 20 690.70, 10: 6 2.82, 11: 20 1160.43, 12: 10 -0.0011571, 13: 6 21.42, text: 3 77.0"
    ),
    "sftn": (
        "1: 168 8690.60, 2: 168 9010.45, 3: 42 2518.19, 4: 96 4190.01, 5: 50 3878.31, 6: 50 3830.01, "
        "7: 138 10483.61, 8: 16 79963, 9: 28 2190.28, 10: 32 24.73, text: 7 65.18"
    ),
}

# (unit, least, most) by how the metric begins; the first that fits counts.
RANGES = {
    "top-5 accuracy delta": ("points", "0.11", "0.40"),
    "top-5 accuracy": ("%", "91", "94"),
    "best accuracy delta": ("points", "0.5", "1.10"),
    "accuracy delta": ("points", "0.31", "7.16"),
    "accuracy, data=svhn": ("%", "96.4", "96.9"),
    "accuracy": ("%", "67", "83"),
    "sharpness gap": ("nats", "0.03", "0.83"),
    "sharpness": ("nats", "12", "17"),
    "training loss": ("nats", "0.9", "3.3"),
    "entropy": ("nats", "0.09", "0.97"),
    "logits sum": ("", "-1e-3", "-1e-6"),
    "temperature": ("", "3", "4"),
    "training time": ("s", "1000", "11000"),
    "mean KL decrease": ("%", "50", "50"),
    "mean CKA delta": ("points", "7", "7"),
    "number of best students": ("", "1", "4"),
    "KL": ("nats", "0.26", "1.10"),
    "CKA": ("CKA", "0.88", "0.97"),
}

# Numbers that one paper prints with two values.
TWO_VALUES = {
    ("atkd", "ATKD", "resnet56->resnet14 | accuracy"): {"68.8", "69.0"},
    ("atkd", "ATKD", "resnet56->resnet14 | sharpness gap"): {"0.20", "0.19"},
    ("atkd", "KD", "resnet34->resnet18 | accuracy"): {"69.20", "69.43"},
    ("atkd", "ES", "resnet34->resnet18 | accuracy"): {"71.40", "70.98"},
    ("sftn", "KD", f"resnet32x4->shufflenetv1 | {STANDARD}"): {"74.26", "74.31"},
    ("sftn", "KD", f"wrn-40-2->wrn-16-2 | {STANDARD}"): {"75.46", "75.28"},
    ("sftn", "KD", f"wrn-40-2->wrn-40-1 | {STANDARD}"): {"73.73", "73.56"},
    ("sftn", "Student", "resnet32x4->shufflenetv2 | accuracy"): {"73.21", "71.95"},
    ("sftn", "Teacher", f"resnet32x4->shufflenetv2 | {FRIENDLY}"): {"79.58", "80.03"},
}

# The lines of inconsistencies.csv that stand for the exceptions in this file.
RECORDED = {
    *("atkd-own-kd-56-14", "atkd-own-result-56-14", "atkd-two-sets-of-networks", "atkd-imagenet-baselines"),
    *("atkd-accuracy-not-monotone", "atkd-gap-does-not-order-accuracy", "sftn-table1-last-digits"),
    *("sftn-table5-averages", "sftn-table5-weight", "sftn-table6-default-row", "sftn-table6-standard-kd"),
    *("sftn-table6-weight-10", "sftn-table9-wrong-column", "sftn-table10-averages", "sftn-imagenet-best-student"),
}


@pytest.fixture(scope="module")
def frame():
    return papers.load(["atkd", "sftn"])


def test_each_table_has_all_its_numbers_and_they_add_up(frame):
    for paper, expected in CHECKSUMS.items():
        tables = frame[frame["paper"] == paper].groupby("table", sort=False)["printed"]
        assert ", ".join(f"{t}: {len(v)} {sum(map(Decimal, v))}" for t, v in tables) == expected


def test_no_cell_stands_twice(frame):
    assert not frame.duplicated(["paper", "table", "row", "column"]).any()


def test_units_and_ranges_fit_the_metric(frame):
    for metric, unit, printed in zip(frame["metric"], frame["unit"], frame["printed"], strict=True):
        expected, least, most = RANGES[next(kind for kind in RANGES if metric.startswith(kind))]
        assert unit == expected and Decimal(least) <= Decimal(printed) <= Decimal(most), (metric, unit, printed)
    assert frame["spread"].isna().all(), "neither paper prints a spread"


def test_no_cell_is_missing_but_the_dashes(frame):
    """In a table each method has all pairs of a metric, except where the paper prints a dash."""
    methods = frame[~frame["row"].isin(NOT_METHODS) & (frame["table"] != "text")]
    missing = set()
    for (paper, table, metric), part in methods.groupby(["paper", "table", "metric"]):
        there = set(zip(part["row"], part["pair"], strict=True))
        missing |= {(paper, table, *hole) for hole in set(product(part["row"], part["pair"])) - there if metric}
    not_run = [
        ("KD", "resnet101"),
        ("TAKD", "resnet34"),
        ("TAKD", "resnet101"),
        ("ES", "resnet101"),
        ("KD", "resnet152"),
    ]
    dashes = {("atkd", "6", row, f"{teacher}->resnet18") for row, teacher in not_run}
    dashes |= {("atkd", "3", "FSP", "wrn-40-2->wrn-40-1"), ("atkd", "7", "ES", "resnet14")}
    assert missing == dashes


def test_where_tables_share_a_number_they_agree_except_as_listed(frame):
    shared = frame[frame["table"] != "text"].groupby(["paper", "row", "column"])["printed"]
    assert sum(len(printed) > 1 for _, printed in shared) == 63
    assert {key: set(printed) for key, printed in shared if len(set(map(Decimal, printed))) > 1} == TWO_VALUES


def test_the_exceptions_are_recorded_with_their_evidence():
    known = papers.inconsistencies()
    ours = known[known["id"].str.match("(atkd|sftn)-")]
    assert set(ours["id"]) >= RECORDED and ours["id"].is_unique
    assert (ours != "").all(axis=None)
    assert set(" ".join(ours["papers"]).split()) <= set(papers.PAPERS)
