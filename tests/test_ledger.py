"""The runs behind published notebooks: what a ledger holds, and how `verify` reads it."""

import pandas as pd
import pytest
from tiny import TEACHER, student

from kd_lib import ledger, notebooks, parameters, runs
from kd_lib.data import DataNotFound
from kd_lib.paths import project_root
from kd_lib.plan import plan

ROOT = project_root()
PUBLISHED = ("03_temperature", "04_adaptive_temperature", "05_moving_teacher")
COMMITTED = sorted((ROOT / "figures").glob("*/runs/*.csv"))


@pytest.fixture
def result(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "store"))
    return runs.ensure(student("kd"))


def test_a_line_says_what_was_trained_how_it_ended_and_where(result):
    lines = ledger.table({"kd": [result.run]}).set_index("key")
    assert list(lines.index) == [TEACHER.key, result.run.key], "the teacher has a line, and the first"
    mine, log = lines.loc[result.run.key], result.metrics.iloc[-1]
    assert mine["run"] == "resnet8-w2 kd from resnet8-w4, seed 1"
    assert (mine["teacher"], mine["data"], mine["epoch"]) == (TEACHER.key, "digits100", 2)
    for name in ("loss", "accuracy", "train_accuracy", "teacher_accuracy", "sharpness", "entropy", "gap", "kl"):
        assert mine[name] == pytest.approx(log[name], rel=1e-12), name
    assert mine["seconds"] == pytest.approx(result.metrics["seconds"].sum())
    environment = result.manifest["environment"]
    assert {name: mine[name] for name in environment} == environment
    assert {"torch", "processor", "precision", "threads"} <= set(environment)


def test_what_a_ledger_says_is_compared_with_the_store(result, tmp_path, monkeypatch):
    ledger.write([result.run], "01_a", "short", tmp_path)
    path = tmp_path / "short" / "runs" / "01_a.csv"
    assert ledger.compare("short", tmp_path) == (2, [])
    assert ledger.compare("demo", tmp_path) == (0, [])
    lines = pd.read_csv(path)
    lines.loc[1, "gap"] += 1e-6
    lines.drop(columns="kl").to_csv(path, index=False)
    compared, (problem,) = ledger.compare("short", tmp_path)
    assert compared == 2
    for told in ("short/runs/01_a.csv", result.run.key, f"gap {lines.gap[1]}, but the run says ", "kl nothing, but"):
        assert told in problem
    assert "accuracy" not in problem, "what is the same is not named"
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "elsewhere"))
    assert ledger.compare("short", tmp_path) == (0, []), "runs that are not here cannot be compared"


def test_a_notebook_that_needs_no_runs_has_no_ledger(result, tmp_path):
    ledger.write([result.run], "01_a", "demo", tmp_path)
    ledger.write([], "01_a", "demo", tmp_path)
    assert not list(tmp_path.glob("demo/runs/*"))


def test_ledgers_are_committed():
    assert {path.parts[-3] for path in COMMITTED} >= {"demo", "short"}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_a_committed_ledger_is_of_the_runs_that_its_notebook_needs(path, request, monkeypatch):
    scale = path.parts[-3]
    if scale != "demo":
        monkeypatch.setenv("KD_DATA", str(request.getfixturevalue("shared_data")))
    notebook = ROOT / "notebooks" / ("" if scale == "demo" else scale) / f"{path.stem}.ipynb"
    cells = notebooks.read(notebook)["cells"]
    injected = [notebooks.source(cell) for cell in cells if notebooks.INJECTED in notebooks.tags(cell)]
    values = {name: p.default for code in injected for name, p in parameters.declared(code, notebook.name).items()}
    try:
        wanted = notebooks.collect_runs(notebook, values)
    except ValueError as error:
        if isinstance(error.__cause__, DataNotFound):
            pytest.skip(f"the data of {scale}/{path.stem} are not here, so its runs have no keys")
        raise
    assert list(pd.read_csv(path)["key"]) == [step.key for step in plan(wanted)]


def test_the_readmes_tables_of_cifar_are_the_ledgers():
    rows = pd.concat([pd.read_csv(ROOT / "figures" / "short" / "runs" / f"{name}.csv") for name in PUBLISHED])
    rows = rows.drop_duplicates("run").set_index("run")
    text = (ROOT / "README.md").read_text()
    shown = {"KD": "kd", "ATKD with the factor 16 of KD": "atkd_16", "ATKD as printed, without a factor": "atkd"}
    for name, method in shown.items():
        pair = [rows.accuracy[f"resnet14 {method} from {teacher}, seed 0"] for teacher in ("resnet20", "resnet56")]
        assert f"| {name} | {pair[0]:.1f} | {pair[1]:.1f} |" in text
    alone = rows.accuracy[["resnet20, seed 0", "resnet56, seed 0", "resnet14, seed 0"]]
    assert "from resnet20 ({:.1f}) | from resnet56 ({:.1f}) |".format(*alone) in text
    assert f"| alone | {alone.iloc[2]:.1f} | {alone.iloc[2]:.1f} |" in text
    assert f"| alone | {alone.iloc[0]:.1f} | | | |" in text
    taught = {
        "KD at temperature 1": "kd from resnet56, tau=1.0",
        "KD at 4": "kd from resnet56",
        "KD at 8": "kd from resnet56, tau=8.0",
        "ATKD with the factor 16": "atkd_16 from resnet56",
        "FT-KD": "ft_kd from resnet56",
        "PESF-KD v1": "pesf_kd_v1 from resnet56",
        "PESF-KD v2, unadjusted": "pesf_kd_plain from resnet56",
        "PESF-KD v2": "pesf_kd from resnet56",
    }
    for name, label in taught.items():
        row = rows.loc[f"resnet20 {label}, seed 0"]
        cells = f"{row.accuracy:.1f} | {row.teacher_accuracy:.1f} | {row.gap:.2f} | {row.kl:.2f}"
        assert f"| {name} | {cells} |" in text
