"""The numbers of the two PESF-KD papers: typed as printed, placed rightly, every disagreement listed; and the loader."""

import csv
import re
import tomllib
from collections import Counter
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

import pytest
import torch

from kd_lib import models, papers

ROOT = Path(__file__).resolve().parents[1]
PAIRS = ("resnet56->resnet20", "resnet110->resnet32", "vgg13->vgg8", "resnet56->vgg8")
IMAGENET, TEXT = "resnet50->resnet18", "bert12->bert6"

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

ADJUSTED = "label adjustment"  # v1 and the daggers of v2 are without it: new runs, no inconsistency
ALONE = f"{PAIRS[0]} | accuracy"
DIFFER = {
    **{("KD", f"{pair} | accuracy"): "pesf-two-kd" for pair in (PAIRS[0], *PAIRS[2:])},
    **{("FT-KD", f"{pair} | accuracy"): "pesf-v1-tables-1-2" for pair in PAIRS[:3]},
    **{("PESF-KD", f"{pair} | accuracy"): ADJUSTED for pair in (*PAIRS, IMAGENET)},
    **{(f"{base} + PESF-KD", ALONE): ADJUSTED for base in ("KD", "PKT", "CRD", "RKD")},
    **{("PESF-KD", f"{TEXT} | {task} accuracy"): ADJUSTED for task in ("RTE", "SST-2")},
    ("PESF-KD", f"{IMAGENET} | KL"): ADJUSTED,
    ("PESF-KD", f"{IMAGENET} | sharpness gap"): ADJUSTED,
    ("DML", ALONE): "pesf-dml-resnet20",
    ("DML", f"{IMAGENET} | accuracy"): "pesf-dml-imagenet",
    ("KDCL", f"{IMAGENET} | KL"): "pesf-kdcl-imagenet-gap",
    ("KDCL", f"{IMAGENET} | sharpness gap"): "pesf-kdcl-imagenet-gap",
    ("PKD", f"{TEXT} | SST-2 accuracy"): "pesf-pkd-sst2",
    ("PKD", f"{TEXT} | SST-2 agreement"): "pesf-v2-tables-11-13",
    ("PKD", f"{TEXT} | SST-2 probability loyalty"): "pesf-v2-tables-11-13",
    ("PKD", f"{TEXT} | SST-2 softmax gap"): "pesf-v2-tables-11-13",
    ("TinyBERT", f"{TEXT} | SST-2 agreement"): "pesf-v2-tables-11-13",
    ("TinyBERT", f"{TEXT} | SST-2 softmax gap"): "pesf-v2-tables-11-13",
    ("TinyBERT", f"{TEXT} | RTE softmax gap"): "pesf-v2-tables-11-13",
}
"""The cells that stand in several tables of v1 and v2 and do not agree, with the line of inconsistencies.csv on it."""


def cells(paper: str, table: str) -> dict[tuple[str, str], Decimal]:
    """(row, column) -> the number as printed, exact."""
    frame = papers.load(paper, table=table)
    return {(r, c): Decimal(v) for r, c, v in zip(frame["row"], frame["column"], frame["printed"], strict=True)}


def megabytes(parameters: int, printed: Decimal) -> Decimal:
    """Of float32, to as many digits as the paper prints."""
    return (Decimal(4 * parameters) / 10**6).quantize(printed, ROUND_HALF_UP)


def parameters(name: str, n_classes: int = 100) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in models.build(name, n_classes=n_classes).parameters())


@pytest.fixture(scope="module")
def frame():
    return papers.load(["pesf_v1", "pesf_v2"])


@pytest.fixture(scope="module")
def raw() -> list[dict[str, str]]:
    """The lines of both CSVs as they stand there, spreads with their zeros."""
    return [
        line
        for name in ("pesf_v1", "pesf_v2")
        for line in csv.DictReader((papers.FOLDER / f"{name}.csv").read_text(encoding="utf-8").splitlines())
    ]


@pytest.fixture(scope="module")
def known() -> set[str]:
    return set(papers.inconsistencies()["id"])


# ---- typing


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


# ---- arithmetic


def test_printed_differences_equal_their_cells(known):
    off, n = {}, 0
    for table in ("1", "2", "3", "4"):
        found = cells("pesf_v2", table)
        for (row, column), printed in found.items():
            if column.endswith(" delta"):
                base = column.removesuffix(" delta")
                reference = row.removesuffix(" + PESF-KD") if table == "4" else "KD"
                n += 1
                if (exact := found[row, base] - found[reference, base]) != printed:
                    off[table, row, column] = (str(printed), str(exact))
    assert n == 28 + 7 + 18 + 4
    assert off == {("1", "PESF-KD", "resnet56->vgg8 | accuracy delta"): ("0.6", "0.69")}
    assert "pesf-v2-delta-vgg8" in known


def test_differences_in_the_prose():
    three = cells("pesf_v1", "3")
    assert three["KDCL", f"{IMAGENET} | accuracy"] - three["FT-KD", f"{IMAGENET} | accuracy"] == Decimal("0.17")
    assert 3 * three["PESF-KD", f"{IMAGENET} | batch time"] < three["FT-KD", f"{IMAGENET} | batch time"]


@pytest.mark.parametrize(("paper", "table"), [("pesf_v1", "4"), ("pesf_v2", "3")])
def test_text_time_is_the_ratio_of_trained_parameters(paper, table):
    found = cells(paper, table)
    for row in ("KD", "RCO", "TAKD", "DML", "SFTN", "FT-KD"):
        ratio = found[row, f"{TEXT} | params"] / found["KD", f"{TEXT} | params"]
        assert ratio.quantize(Decimal("0.01"), ROUND_DOWN) == found[row, f"{TEXT} | relative time"]


def test_headings_round_the_sizes_of_the_data_sets(frame):
    for paper, statistics in (("pesf_v1", "7"), ("pesf_v2", "6")):
        exact = cells(paper, statistics)
        heads = frame[(frame["row"] == "Training set") & (frame["paper"] == paper)]
        assert len(heads) == {"pesf_v1": 6, "pesf_v2": 5}[paper]
        for metric, printed in zip(heads["metric"], map(Decimal, heads["printed"]), strict=True):
            size = exact[metric.removesuffix(" training set"), "data set | training set"] / 1000
            assert size.quantize(printed, ROUND_HALF_UP) == printed


# ---- the same number in several places


def test_where_tables_share_a_number_they_agree_except_as_listed(frame, known):
    shared = frame[frame["table"] != "text"].groupby(["row", "column"])
    assert sum(len(group) > 1 for _, group in shared) == 269
    differ = {key for key, group in shared if group["value"].nunique() > 1 or group["spread"].dropna().nunique() > 1}
    # One spread stands with and without label adjustment, beside two means.
    assert differ == DIFFER.keys()
    assert set(DIFFER.values()) - {ADJUSTED} <= known


def test_v2_repeats_v1_but_for_listed_cells():
    """Table by table: a cell of v2 is the cell of v1 in the same place, but for those of DIFFER."""
    unlike = Counter()
    same = {"1": "7", "2": "8", "3": "9", "4": "3", "5": "14", "6": "12", "7": "6", "text": "text"}
    for old, new in same.items():
        first, second = cells("pesf_v1", old), cells("pesf_v2", new)
        assert len(first.keys() & second.keys()) == {"4": 3 + 9 * 3 + 7 * 2, "7": 19, "text": 4}.get(old, len(first))
        for key in first.keys() & second.keys():
            if first[key] != second[key]:
                assert key in DIFFER
                unlike[old] += 1
    assert unlike == {"1": 5, "2": 7, "3": 6, "4": 2}


def test_v2_repeats_itself():
    """Table 1 is the accuracies of Table 7, Table 2 is Table 9, and PESF-KD's rows end up in Tables 4, 8 and 12."""
    table = {name: cells("pesf_v2", name) for name in ("1", "2", "4", "7", "8", "9", "10", "12", "14")}
    for short, long, n in (("1", "7", 32), ("2", "9", 24)):
        both = table[short].keys() & table[long].keys()
        assert len(both) == n and all(table[short][key] == table[long][key] for key in both)
    for row, pair in product(("FT-KD", "PESF-KD"), PAIRS):
        assert table["8"][row, f"{pair} | accuracy"] == table["7"][row, f"{pair} | accuracy"]
    for row in ("KD", "PKT", "CRD", "RKD"):
        assert table["4"][row, ALONE] == table["12"][row, ALONE] == table["7"][row, ALONE]
        assert table["4"][f"{row} + PESF-KD", ALONE] > table["12"][f"{row} + PESF-KD", ALONE]
    assert table["4"]["KD + PESF-KD", ALONE] == table["7"]["PESF-KD", ALONE]
    assert (
        table["12"]["KD + PESF-KD", ALONE] == table["10"]["PESF-KD", ALONE] == cells("pesf_v1", "1")["PESF-KD", ALONE]
    )
    of_kd = {key: value for key, value in table["14"].items() if key in table["7"]}
    assert len(of_kd) == 3 and all(table["7"][key] == value for key, value in of_kd.items())


def test_label_adjustment_never_lowers_a_number_that_should_rise():
    """v1 (without) to v2 (with): accuracy and F1 of PESF-KD rise or stay, its gap and KL on ImageNet fall."""
    for old, new in (("1", "7"), ("3", "9"), ("4", "3")):
        first, second = cells("pesf_v1", old), cells("pesf_v2", new)
        for key in [key for key in first.keys() & second.keys() if key[0] == "PESF-KD"]:
            change = second[key] - first[key]
            if key[1].endswith(("accuracy", "F1")):
                assert change >= 0
            else:
                assert change <= 0 if key[1].endswith(("KL", "gap")) else change == 0


# ---- params


@pytest.mark.parametrize(("paper", "table"), [("pesf_v1", "1"), ("pesf_v2", "7")])
def test_params_of_cifar_are_megabytes(paper, table, known):
    found, off = cells(paper, table), {}
    size = {name: parameters(name) for pair in PAIRS for name in pair.split("->")}
    features = {name: 512 if name.startswith("vgg") else 64 for name in size}
    for pair in PAIRS:
        teacher, student = pair.split("->")
        heads = sum(features[name] * 128 + 128 for name in (teacher, student))
        expected = dict.fromkeys(("KD", "PKT", "RKD"), size[student])
        expected |= dict.fromkeys(("KDCL", "DML", "FT-KD"), size[student] + size[teacher])
        expected |= {"CRD": size[student] + heads, "PESF-KD": size[student] + 2 * 100 * 64}
        for row, count in expected.items():
            printed = found[row, f"{pair} | params"]
            if (exact := megabytes(count, printed)) != printed:
                off[row, pair] = (str(printed), str(exact))
        rank_32 = megabytes(size[student] + 2 * 100 * 32, Decimal("0.01"))
        assert rank_32 < found["PESF-KD", f"{pair} | params"], "the papers' own rank does not explain the cost"
    assert off == {("CRD", "resnet56->vgg8"): ("15.93", "16.16")}
    assert {"pesf-crd-params-vgg8", "pesf-adapter-rank", "pesf-params-megabytes"} <= known


@pytest.mark.parametrize(("paper", "table"), [("pesf_v1", "3"), ("pesf_v2", "2"), ("pesf_v2", "9")])
def test_params_of_imagenet_are_megabytes(paper, table, known):
    found, column = cells(paper, table), f"{IMAGENET} | params"
    teacher, student = (parameters(f"torchvision-{name}", n_classes=1000) for name in IMAGENET.split("->"))
    for row, count in dict.fromkeys(("KD", "PKT", "RKD"), student).items():
        assert found[row, column] == megabytes(count, found[row, column])
    for row in ("KDCL", "DML", "FT-KD"):
        assert found[row, column] == megabytes(student + teacher, found[row, column])
    for row, (printed, extra) in {"CRD": ("63", 128 * (512 + 2048) + 256), "PESF-KD": ("54", 2 * 2048 * 32)}.items():
        assert found[row, column] == Decimal(printed) > megabytes(student + extra, Decimal(1)) + 5
    said = cells("pesf_v1", "text")
    for row, count in (("Teacher", teacher), ("Student", student)):
        assert said[row, column] == megabytes(count, said[row, column])
    assert "pesf-imagenet-params" in known


@pytest.mark.parametrize(("paper", "table"), [("pesf_v1", "5"), ("pesf_v2", "14")])
def test_the_ablations_adapter_is_not_the_main_tables(paper, table, known):
    ablation, main = cells(paper, table), cells(paper, "1" if paper == "pesf_v1" else "7")
    names = ("batch time", "params", "accuracy")
    assert all(ablation["Adapter", f"vgg13->vgg8 | {m}"] != main["PESF-KD", f"vgg13->vgg8 | {m}"] for m in names)
    assert {ablation[row, "vgg13->vgg8 | params"] for row in ("Adapter", "LoRA", "Scaled PA")} == {Decimal("15.95")}
    assert "pesf-adapter-ablation" in known


# ---- claims that the tables contradict


def test_claims_of_inconsistencies_csv_that_the_tables_decide(known):
    v1, v2 = cells("pesf_v1", "1") | cells("pesf_v1", "4"), cells("pesf_v2", "1")
    below = [(row, pair) for row in ("KDCL", "DML") for pair in PAIRS if v2[row, f"{pair} | accuracy delta"] < 0]
    assert len(below) == 5 and "pesf-online-better" in known
    others = [v1[row, f"{TEXT} | SST-2 accuracy"] for row in ("RCO", "TAKD", "DML", "SFTN", "PKD", "KD")]
    assert v1["PESF-KD", f"{TEXT} | SST-2 accuracy"] == max(others) and "pesf-v1-sst2-best" in known
    five = cells("pesf_v1", "5")
    assert five["LoRA", "vgg13->vgg8 | accuracy"] > five["Adapter", "vgg13->vgg8 | accuracy"]
    assert "pesf-v1-adapter-caption" in known
    ten = cells("pesf_v2", "10")
    loyalty, agreement = (f"{PAIRS[0]} | {name}" for name in ("probability loyalty", "agreement"))
    assert ten["PESF-KD", loyalty] < ten["KD", loyalty] and ten["PESF-KD", agreement] > ten["FT-KD", agreement]
    eleven = cells("pesf_v2", "11")
    worse = [m for m, sign in (("probability loyalty", 1), ("KL", -1), ("agreement", 1), ("softmax gap", -1))
             if sign * (eleven["PESF-KD", f"{TEXT} | RTE {m}"] - eleven["PKD", f"{TEXT} | RTE {m}"]) < 0]  # fmt: skip
    assert worse == ["probability loyalty", "softmax gap"]
    assert {"pesf-v2-table-10-caption", "pesf-v2-table-11-caption"} <= known


def test_fsp_is_above_kd_only_where_its_source_is_unknown(known):
    two = cells("pesf_v1", "2")
    above = [pair for pair in PAIRS if two["FSP", f"{pair} | accuracy"] > two["KD", f"{pair} | accuracy"]]
    assert above == ["resnet56->vgg8"] and "pesf-fsp-resnet50-vgg8" in known


def test_ft_kd_is_the_same_with_and_without_label_adjustment(known):
    first, second = cells("pesf_v1", "1") | cells("pesf_v1", "3"), cells("pesf_v2", "7") | cells("pesf_v2", "9")
    of_ft = [key for key in first if key[0] == "FT-KD"]
    assert len(of_ft) == 17 and all(first[key] == second[key] for key in of_ft)
    assert "pesf-ft-kd-label-adjustment" in known


def test_the_printed_gap_is_larger_than_atkds_sharpness_allows(known):
    sharpness = papers.load("atkd", table="2", column="sharpness")["value"]
    gap = papers.load("pesf_v1", table="text", row="KD", column="sharpness gap")["value"].item()
    assert gap > 9 * (sharpness.max() - sharpness.min()) and "pesf-gap-size" in known


# ---- files and loader


@pytest.mark.parametrize("paper", papers.PAPERS)
def test_files_have_the_agreed_columns(paper):
    with (papers.FOLDER / f"{paper}.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    assert tuple(lines[0]) == papers.COLUMNS
    assert {line[0] for line in lines[1:]} == {paper}
    assert all(len(line) == len(papers.COLUMNS) and re.fullmatch(r"[^|]+ \| [^|]+", line[3]) for line in lines[1:])


def test_files_ship_with_the_package():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    names = [path.name for path in papers.FOLDER.iterdir() if path.is_file() and path.suffix != ".py"]
    assert len(names) == 5 and all(any(fnmatch(name, pattern) for pattern in declared) for name in names)


def test_inconsistencies_are_complete():
    listed = papers.inconsistencies()
    assert list(listed.columns) == ["id", "papers", "where", "claim", "evidence", "reading"]
    assert listed["id"].is_unique and (listed != "").all(axis=None)
    assert listed["id"].str.startswith("pesf-").sum() == 27
    assert all(name in papers.PAPERS for text in listed["papers"] for name in text.split())


def test_load_filters_by_exact_names_and_lists():
    everything = papers.load()
    assert list(everything["paper"].unique()) == list(papers.PAPERS)
    assert list(everything.columns) == [*papers.COLUMNS, "pair", "metric", "printed"]
    one = papers.load("pesf_v2", table="1", row="DML", column="resnet56->resnet20 | accuracy")
    assert one["value"].tolist() == [71.40] and one["printed"].tolist() == ["71.40"] and one.index.tolist() == [0]
    assert one["spread"].isna().all()
    kd = papers.load("pesf_v2", table="1", row="KD", column="resnet56->resnet20")
    assert (kd["value"].item(), kd["spread"].item(), kd["pair"].item()) == (70.95, 0.51, "resnet56->resnet20")
    both = papers.load(["pesf_v1", "pesf_v2"], table=["1", "7"], row=("KD", "DML"), column="params")
    assert set(both["row"]) == {"KD", "DML"} and set(both["metric"]) == {"params"} and len(both) == 16
    union = papers.load("pesf_v1", table="1", row="KD", column=["accuracy", "vgg13->vgg8"])
    assert len(union) == 4 + 2, "a list lets through what any of its names lets through"
    assert papers.load("pesf_v1", row=[]).empty


@pytest.mark.parametrize(
    ("filters", "near"),
    [
        ({"paper": "atdk"}, "'atkd'"),
        ({"paper": "pesf_v1", "table": 1}, "'1'"),
        ({"row": ["KD", "PESFKD"]}, "'PESF-KD'"),
        ({"paper": "pesf_v1", "column": "acuracy"}, "'accuracy'"),
        ({"paper": "pesf_v1", "column": "resnet56->resnet2O"}, "'resnet56->resnet20'"),
        ({"paper": "pesf_v1", "column": "vgg13->vgg8 | param"}, "'vgg13->vgg8 | params'"),
    ],
)
def test_unknown_names_are_told_the_nearest(filters, near):
    with pytest.raises(ValueError, match=re.escape(f"Did you mean {near}?")):
        papers.load(**filters)


def test_a_name_that_another_filter_excludes_is_unknown():
    with pytest.raises(ValueError, match=r"unknown row .* 'SSKD'"):
        papers.load("pesf_v1", row="SSKD")
