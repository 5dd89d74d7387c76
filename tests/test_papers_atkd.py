"""ATKD's tables against each other: repeated cells, series over networks, and numbers in the prose."""

from decimal import Decimal
from itertools import pairwise

import pytest
from printed_tables import cells, rounded

from kd_lib import papers

SIZES = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")


def test_atkd_shows_the_same_kd_in_tables_1_and_5_and_another_in_table_8():
    one, five, eight = cells("atkd", "1"), cells("atkd", "5"), cells("atkd", "8")
    both = [key for key in one if key[0] == "KD"]
    assert len(both) == 10 and all(one[key] == five[key] for key in both)
    pair, fixed = "resnet56->resnet14 |", ", tau_t=4, tau_s=4"
    assert five["KD", f"{pair} accuracy"] == Decimal("67.5")
    assert eight["KD", f"{pair} accuracy{fixed}"] == Decimal("68.06")
    assert five["KD", f"{pair} sharpness gap"] == eight["KD", f"{pair} sharpness gap{fixed}"]


def test_atkd_gives_some_networks_two_accuracies():
    own = {column.partition("->")[0]: v for (row, column), v in cells("atkd", "1").items() if row == "Teacher"}
    cited: dict[str, set[Decimal]] = {}
    for (row, column), value in cells("atkd", "3").items():
        teacher, _, student = column.partition(" | ")[0].partition("->")
        if row in {"Teacher", "Student"}:
            cited.setdefault(teacher if row == "Teacher" else student, set()).add(value)
    assert all(len(values) == 1 for values in cited.values()), "one network, one accuracy within Table 3"
    pairs = {network: f"{own[network]} {min(cited[network])}" for network in own.keys() & cited.keys()}
    expected = {"resnet20": "69.57 69.06", "resnet32": "70.9 71.14"}
    assert pairs == expected | {"resnet56": "72.8 72.34", "resnet110": "73.8 74.31"}


def test_atkd_baselines_are_those_that_pesf_kd_cites():
    """Two files typed by different hands; the shared pairs are resnet56/20, resnet110/32 and vgg13/8."""
    both = papers.load("atkd", table="3").merge(papers.load("pesf_v1", table="2"), on=["row", "column"])
    assert len(both) == 33 and (both["printed_x"] == both["printed_y"]).all()


@pytest.mark.parametrize("table", ["3", "4", "5", "6", "9", "11"])
def test_atkd_is_best_in_every_column(table):
    by_column: dict[str, dict[str, Decimal]] = {}
    for (row, column), value in cells("atkd", table).items():
        if row != "Teacher":
            by_column.setdefault(column, {})[row] = value
    for column, values in by_column.items():
        best = max(values.values()) if "accuracy" in column else min(values.values())
        assert [row for row, value in values.items() if value == best] == ["ATKD"], column


@pytest.mark.parametrize(
    "series",
    [
        *("1 Teacher + accuracy", "2 Alone + sharpness", "7 Alone + sharpness", "7 ES + sharpness"),
        *("5 KD + training loss", "5 ATKD + training loss", "5 KD + sharpness gap", "5 ATKD + sharpness gap"),
        *("9 KD + sharpness gap", "9 ATKD + sharpness gap", "11 Teacher + accuracy, data=svhn"),
        *("10 Alone - entropy", "13 ATKD + temperature"),
    ],
)
def test_atkd_series_go_one_way_with_the_networks_size(series):
    table, row, sign, metric = series.split(" ", 3)
    values = list(papers.load("atkd", table=table, row=row, column=metric)["value"])
    assert len(values) >= 4
    assert values == sorted(set(values), reverse=sign == "-")


def test_atkd_accuracy_does_not_rise_with_every_bigger_teacher():
    found = [cells("atkd", "5")["ATKD", f"{size}->resnet14 | accuracy"] for size in SIZES]
    assert [later < earlier for earlier, later in pairwise(found)] == [False, False, True, False]


def test_atkd_fixed_temperatures_move_the_gap_but_the_gap_does_not_order_the_accuracy():
    found = {"accuracy": {}, "sharpness gap": {}}
    for (row, column), value in cells("atkd", "8").items():
        metric, _, fixed = column.partition(" | ")[2].partition(", ")
        if row == "KD":
            found[metric][fixed] = value
    gap, accuracy = found["sharpness gap"], found["accuracy"]
    student = [gap[f"tau_t=4, tau_s={tau}"] for tau in ("3.5", "3.7", "4", "4.3", "4.5")]
    teacher = [gap[f"tau_t={tau}, tau_s=4"] for tau in ("3.5", "3.7", "4", "4.3", "4.5", "5")]
    assert student == sorted(set(student)) and teacher == sorted(set(teacher), reverse=True)
    assert sorted(gap.values(), reverse=True)[1] == gap[max(accuracy, key=accuracy.get)], "the second widest gap"


def test_atkd_early_stopped_networks_are_less_sharp():
    seven = cells("atkd", "7")
    assert all(seven["ES", f"{size} | sharpness"] < seven["Alone", f"{size} | sharpness"] for size in SIZES)


def test_atkd_numbers_in_the_prose():
    six, said = cells("atkd", "6"), cells("atkd", "text")
    assert said["ATKD", "resnet50->resnet18 | accuracy"] == rounded(max(six.values()), "0.1")
    for column in ("resnet50->resnet18 | accuracy", "resnet152->resnet18 | accuracy"):
        lead = six["ATKD", column] - max(six["ES", column], six["TAKD", column])
        assert rounded(lead, "1") == said["ATKD", f"{column} delta, to ES and TAKD"]
