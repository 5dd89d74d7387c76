"""The numbers of the two PESF-KD papers: typed as printed and placed rightly."""

import csv
from collections import Counter
from decimal import Decimal

import pesf_tables
import pytest
from pesf_tables import IMAGENET, PAIRS, TEXT, parameters

from kd_lib import papers

frame = pesf_tables.frame  # a fixture

# How many numbers each table has, spreads included, and the sum of place x number in printed order (1, 2, ...; row by
# row), so that a swapped pair shows. From the number tokens of the papers' text, not from the CSVs; only
# "text", which is prose, was compared by eye and is pinned from the CSV.
CHECKSUMS = {
    ("pesf_v1", "1"): (96, "141023.379"),
    ("pesf_v1", "2"): (52, "98945.68"),
    ("pesf_v1", "3"): (40, "30629.31"),
    ("pesf_v1", "4"): (92, "350969.04"),
    ("pesf_v1", "5"): (12, "1849.3812"),
    ("pesf_v1", "6"): (8, "2575.19"),
    ("pesf_v1", "7"): (47, "49976260"),
    ("pesf_v1", "text"): (8, "1374.93"),
    ("pesf_v2", "1"): (72, "77660.32"),
    ("pesf_v2", "2"): (34, "23026.15"),
    ("pesf_v2", "3"): (62, "97305.66"),
    ("pesf_v2", "4"): (12, "3452.89"),
    ("pesf_v2", "6"): (19, "10757770"),
    ("pesf_v2", "7"): (96, "141325.779"),
    ("pesf_v2", "8"): (52, "99043.17"),
    ("pesf_v2", "9"): (40, "31944.03"),
    ("pesf_v2", "10"): (24, "8697.94"),
    ("pesf_v2", "11"): (82, "79156.54"),
    ("pesf_v2", "12"): (8, "2575.19"),
    ("pesf_v2", "13"): (64, "68989.42"),
    ("pesf_v2", "14"): (16, "3188.5374"),
    ("pesf_v2", "text"): (5, "73.58"),
}

# (unit, least, most) of a metric by what it begins with, or ends with after the task's name; bounds hug the print.
RANGES = {
    "accuracy drop": ("points", "0.3", "0.3"),
    "delta": ("points", "-0.87", "1.7"),
    "accuracy": ("%", "67.6", "93.0"),
    "F1": ("F1", "86.9", "91.6"),
    "Pearson": ("Pearson", "88.1", "90.2"),
    "Spearman": ("Spearman", "87.9", "89.8"),
    "agreement": ("%", "71.8", "99.3"),
    "probability loyalty": ("%", "78.5", "97.5"),
    "softmax gap": ("1e-2 nats", "0.1", "4.0"),
    "sharpness gap": ("nats", "14.1", "36.3"),
    "CKA": ("CKA", "0.8537", "0.8758"),
    "batch time": ("s", "0.097", "1.56"),
    "relative time": ("x", "1", "2.66"),
    "classes": ("classes", "2", "1000"),
    "set": (None, "2.5", "390965"),
    "params": (None, "1.11", "176"),
    "KL": (None, "0.23", "10.5"),
}


@pytest.fixture(scope="module")
def raw() -> list[dict[str, str]]:
    """The lines of both CSVs as they stand there, spreads with their zeros."""
    return [
        line
        for name in ("pesf_v1", "pesf_v2")
        for line in csv.DictReader((papers.FOLDER / f"{name}.csv").read_text(encoding="utf-8").splitlines())
    ]


def test_each_table_has_all_its_numbers_in_order(raw):
    counts, sums = Counter(), Counter()
    for line in raw:
        for number in filter(None, (line["value"], line["spread"])):
            counts[line["paper"], line["table"]] += 1
            sums[line["paper"], line["table"]] += counts[line["paper"], line["table"]] * Decimal(number)
    assert {key: (counts[key], sums[key]) for key in counts} == {
        key: (count, Decimal(total)) for key, (count, total) in CHECKSUMS.items()
    }


def test_no_cell_stands_twice(frame):
    assert not frame.duplicated(["paper", "table", "row", "column"]).any()


def test_units_and_ranges_fit_the_metric(frame):
    used = set()
    for metric, unit, value in zip(frame["metric"], frame["unit"], frame["printed"], strict=True):
        kind = next(kind for kind in RANGES if metric.startswith(kind) or metric.endswith(kind))
        expected, least, most = RANGES[kind]
        assert Decimal(least) <= Decimal(value) <= Decimal(most), (metric, value)
        assert expected in (None, unit), (metric, unit)
        used.add(kind)
    assert used == set(RANGES)
    spread = frame["spread"].dropna()
    assert (len(spread), spread.min(), spread.max()) == (12 + 3 + 12 + 40 + 32, 0.04, 5.0)


def test_units_that_depend_on_the_table(frame):
    for metric, text_unit, image_unit in (("params", "M", "MB"), ("KL", "1e-2 nats", "nats")):
        part = frame[frame["metric"].str.endswith(metric)]
        assert set(part["unit"][part["pair"] == TEXT]) == {text_unit}
        assert set(part["unit"][part["pair"] != TEXT]) == {image_unit}
    sizes = frame[frame["metric"].str.endswith("set")]
    thousands = sizes["note"].str.contains(r"printed: ≈?\d+(?:\.\d)?[kK]$")
    assert set(sizes["unit"][thousands]) == {"k examples"} and set(sizes["unit"][~thousands]) == {"examples"}


def test_every_row_of_a_table_has_the_same_columns(frame):
    """No hole in a table but its dashes: the cost of teacher and student of text, CIFAR-100's development set."""
    lines = frame[
        (frame["table"] != "text") & ~frame["metric"].str.endswith("delta") & (frame["row"] != "Training set")
    ]
    holes = {}
    for (paper, table), part in lines.groupby(["paper", "table"]):
        full = {row: set(columns) for row, columns in part.groupby("row")["column"]}
        everything = set().union(*full.values())
        holes |= {
            (paper, table, row): len(everything - columns) for row, columns in full.items() if everything - columns
        }
    text = {(*where, row): 2 for where in (("pesf_v1", "4"), ("pesf_v2", "3")) for row in ("Teacher", "Student")}
    assert holes == text | {("pesf_v1", "7", "CIFAR-100"): 1, ("pesf_v2", "6", "CIFAR-100"): 1}


def test_the_networks_exist_under_these_names(frame):
    pairs = set(frame["pair"]) - {IMAGENET, TEXT, "data set", "CIFAR-100"}
    assert pairs == set(PAIRS)
    assert all(parameters(name) > 0 for pair in pairs for name in pair.split("->"))


def test_lower_bounds_and_daggers_are_noted(frame):
    bound = frame["note"].str.contains("lower bound")
    assert bound.sum() == 13 and bound.equals(frame["note"].str.contains("printed: >"))
    dagger = frame[frame["note"].str.contains("dagger")].groupby("table").size().to_dict()
    assert dagger == {"10": 4, "11": 8, "12": 4, "13": 16}
