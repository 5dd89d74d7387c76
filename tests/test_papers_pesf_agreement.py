"""The two PESF-KD papers' numbers against each other, the networks and the prose: every disagreement is listed."""

from collections import Counter
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from itertools import product

import pesf_tables
import pytest
from pesf_tables import IMAGENET, PAIRS, TEXT, parameters
from printed_tables import cells

from kd_lib import papers

frame = pesf_tables.frame  # a fixture

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


def megabytes(parameters: int, printed: Decimal) -> Decimal:
    """Of float32, to as many digits as the paper prints."""
    return (Decimal(4 * parameters) / 10**6).quantize(printed, ROUND_HALF_UP)


@pytest.fixture(scope="module")
def known() -> set[str]:
    return set(papers.inconsistencies()["id"])


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
