"""Our runs beside the printed numbers: nothing changed, nothing mixed, each side under its scale."""

import ast
import json
import math
from pathlib import Path

import pandas as pd
import pytest

from kd_lib import papers
from kd_lib.methods import METHODS

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
ACCURACY = {"accuracy": "accuracy"}
PRINTED = papers.load("pesf_v2", table=["1", "8"], row=["KD", "PKT", "FT-KD"])

# The tables that a notebook owns (or the part of them that its runs can answer), as (paper, table).
OWNED = {
    "00": {("atkd", "1"), ("atkd", "2")},
    "02": {("atkd", "2"), ("atkd", "7"), ("atkd", "10"), ("atkd", "12")},
    "03": {("atkd", "8")},
    "04": {("atkd", "3"), ("atkd", "5"), ("atkd", "9"), ("atkd", "11"), ("atkd", "13")},
    "05": {("pesf_v1", "1"), ("pesf_v2", "1"), ("pesf_v1", "2"), ("pesf_v2", "8"), ("pesf_v2", "10")},
    "06": {("sftn", "10")},
    "08": {("pesf_v2", "1"), ("pesf_v2", "8"), ("atkd", "3"), ("sftn", "1"), ("sftn", "2")},
    "09": {("pesf_v1", "6"), ("pesf_v2", "4"), ("pesf_v2", "12")},
}


def run(method, seed, accuracy, teacher="resnet8", **more):
    return {
        "network": "resnet8-w4",
        "teacher": teacher,
        "method": method,
        "seed": seed,
        "accuracy": accuracy,
        **more,
    }


RUNS = pd.DataFrame(
    [run("kd", 0, 60.0), run("kd", 1, 62.0), run("ft_kd", 0, 63.0), run("ft_kd", 1, 66.0), run("atkd_sigma", 0, 1.0)]
)
OURS, PAIR = "ours, demo scale: digits100, 2 seeds", "resnet8->resnet8-w4"


def shown(table=RUNS, printed=PRINTED, metrics=ACCURACY, **changes):
    return papers.beside(table, printed, metrics, scale="demo", caption="digits100, 2 seeds", **changes)


def test_each_side_stands_under_its_scale_ours_first():
    sides = shown().columns.get_level_values("side").unique().tolist()
    theirs = [f"PESF-KD v2 Table {table}: CIFAR-100, 240 epochs" for table in "18"]
    assert sides == [OURS, *theirs]
    other = papers.beside(RUNS, PRINTED, ACCURACY, scale="short", protocol="SVHN")
    assert other.columns.get_level_values("side").unique().tolist()[:2] == [
        "ours, short scale",
        "PESF-KD v2 Table 1: SVHN",
    ]


def test_ours_is_mean_and_standard_deviation_over_seeds():
    ours = shown()[OURS, PAIR]
    assert ours["accuracy", "KD"] == f"61.00 ± {math.sqrt(2):.2f}"
    assert ours["accuracy", "FT-KD"] == f"64.50 ± {math.sqrt(4.5):.2f}"
    assert ours["accuracy", "PKT"] == ""
    assert set(ours.index) == {("accuracy", "KD"), ("accuracy", "PKT"), ("accuracy", "FT-KD")}  # no ATKD, scale sigma
    assert shown(RUNS[RUNS.seed == 0])[OURS, PAIR]["accuracy", "KD"] == "60.00"


def test_every_printed_number_is_there_as_printed():
    table = shown()
    lines = papers.load("pesf_v2", table=["1", "8"], row=["KD", "PKT", "FT-KD"], column="accuracy")
    for line in lines.itertuples():
        cell = table[f"PESF-KD v2 Table {line.table}: CIFAR-100, 240 epochs", line.pair]["accuracy", line.row]
        value, _, spread = cell.partition(" ± ")
        assert value == line.printed
        assert float(spread or "nan") == pytest.approx(line.spread, nan_ok=True)
    filled = table.drop(columns=OURS, level="side").ne("").to_numpy().sum()
    assert filled == len(lines) > 10


def test_differences_are_to_the_baseline_of_the_same_column():
    table = shown(baseline="KD")
    assert table[OURS, PAIR]["accuracy", "FT-KD"].endswith(" (+3.50)")
    first = table["PESF-KD v2 Table 1: CIFAR-100, 240 epochs", "resnet56->resnet20"]
    assert first["accuracy", "PKT"] == "71.27 (+0.32)"  # as v2 prints it, from 70.95
    assert first["accuracy", "KD"] == "70.95 ± 0.51"
    eighth = table["PESF-KD v2 Table 8: CIFAR-100, 240 epochs", "resnet56->resnet20"]
    assert eighth["accuracy", "FT-KD"].endswith(" (+0.99)")  # from 70.66


def test_lines_follow_the_metrics_and_the_paper():
    printed = papers.load("atkd", table="5")
    runs = pd.DataFrame([run("atkd_16", 0, 70.0, gap_tempered=0.1), run("kd", 0, 69.0, gap_tempered=0.2)])
    table = shown(runs, printed, {"sharpness gap": "gap_tempered", "accuracy": "accuracy"})
    wanted = [(metric, row) for metric in ("sharpness gap", "accuracy") for row in ("KD", "ATKD")]
    assert table.index.tolist() == wanted
    assert table[OURS, PAIR].tolist() == ["0.20", "0.10", "69.00", "70.00"]


def test_what_only_one_side_has():
    runs = pd.DataFrame([run(method, 0, 70.0, kl=0.5) for method in ("atkd_16", "kd", "fitnet")])
    printed = papers.load("pesf_v2", table="10")
    table = shown(runs, printed, {"accuracy": "accuracy", "KL": "kl"})
    wanted = [(metric, row) for metric in ("accuracy", "KL") for row in ("KD", "PESF-KD", "FT-KD")]
    assert table.index.tolist() == wanted
    assert table[OURS, PAIR].tolist() == ["70.00", "", "", "0.50", "", ""]
    with pytest.raises(ValueError, match=r"\['atkd_16'\]"):
        shown(runs[:1], printed)


def test_a_network_alone_is_its_own_pair_and_has_no_gap():
    runs = pd.DataFrame(
        [run("alone", 0, 50.0, teacher="", sharpness=11.0, gap=math.nan), run("kd", 0, 60.0, sharpness=12.0, gap=1.0)]
    )
    printed = pd.concat([papers.load("atkd", table="2"), papers.load("atkd", table="5")])
    metrics = {"sharpness": "sharpness", "sharpness gap": "gap"}
    table = shown(runs, printed, metrics)
    assert table[OURS, "resnet8-w4"].to_dict() == {
        ("sharpness", "Alone"): "11.00",
        ("sharpness gap", "KD"): "",
        ("sharpness gap", "ATKD"): "",
    }
    assert table[OURS, PAIR]["sharpness gap", "KD"] == "1.00"
    with pytest.raises(ValueError, match="gap is not a finite number"):
        shown(pd.concat([runs, runs.assign(seed=1, gap=math.nan)]), printed, metrics)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"'acuracy'.*accuracy"):
        shown(metrics={"acuracy": "accuracy"})
    with pytest.raises(ValueError, match=r"'acuracy'.*accuracy"):
        shown(metrics={"accuracy": "acuracy"})
    with pytest.raises(ValueError, match=r"'FTKD'.*FT-KD"):
        shown(baseline="FTKD")
    with pytest.raises(ValueError, match="more than one row"):
        shown(pd.concat([RUNS, RUNS]))


def test_names_of_rows_are_real_on_both_sides():
    rows = set(papers.load().row)
    for ours, theirs in papers.ROWS.items():
        assert ours in METHODS or ours == "teacher"
        assert theirs in rows


def test_caveats_are_those_of_the_list():
    known = papers.inconsistencies().set_index("id")
    text = papers.caveats("pesf-two-kd", "sftn-table1-ab-outlier")
    for name in ("pesf-two-kd", "sftn-table1-ab-outlier"):
        assert known.reading[name] in text
        assert known["where"][name] in text
    assert text.count("\n- ") == 2
    assert "- PESF-KD v1 Tables 1 and 2; v2" in text
    assert "- SFTN Table 1, " in text
    assert "- ATKD Table 4; PESF-KD v1 Table 3" in papers.caveats("atkd-kd-69-20")
    with pytest.raises(ValueError, match=r"'pesf-two-kds'.*pesf-two-kd"):
        papers.caveats("pesf-two-kds")


def calls(path: Path, function: str) -> list[ast.Call]:
    code = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    nodes = [node for cell in code for node in ast.walk(ast.parse("".join(cell["source"])))]
    return [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == function]


def literal(node: ast.expr) -> list[str]:
    value = ast.literal_eval(node)
    return [value] if isinstance(value, str) else list(value)


@pytest.mark.parametrize("number", OWNED)
def test_a_notebook_prints_the_tables_it_owns(number):
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    loaded = set()
    for call in calls(path, "papers.load"):
        tables = next(literal(word.value) for word in call.keywords if word.arg == "table")
        loaded |= {(paper, table) for paper in literal(call.args[0]) for table in tables}
    assert loaded >= OWNED[number]
    for call in calls(path, "papers.caveats"):
        papers.caveats(*map(ast.literal_eval, call.args))
