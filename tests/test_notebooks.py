"""The committed notebooks: they run, their parts are in place, and code, outputs and figures belong together."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def cells(path: Path, kind: str) -> list[dict]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def test_the_seven_of_the_main_story_are_there():
    assert [p.stem[:2] for p in NOTEBOOKS][:7] == ["00", "01", "02", "03", "04", "05", "06"]


@by_name
def test_a_notebook_has_its_parts(path):
    prose = "\n".join("".join(c["source"]) for c in cells(path, "markdown"))
    for part in ("**Question.**", "**You need**", "**Cost**", "Predict", "## What we learned", "## Exercises"):
        assert part.lower() in prose.lower(), part
    assert prose.count("\n2. ") >= 1, "two exercises"
    tags = [tag for c in cells(path, "code") for tag in c["metadata"].get("tags", [])]
    assert tags.count("parameters") == 1
    assert tags.count("runs") == 1


@by_name
def test_a_notebook_trains_nothing_by_itself_and_keeps_its_code_short(path):
    for cell in cells(path, "code"):
        tree = ast.parse("".join(cell["source"]))
        for node in ast.walk(tree):
            assert not isinstance(node, ast.ClassDef | ast.AsyncFunctionDef)
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 5, node.name
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("step", "zero_grad"), "a training loop"


@by_name
def test_every_figure_that_is_saved_is_committed_with_its_numbers(path):
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "figures.save":
                name = ast.literal_eval(node.args[1])
                for kind in ("svg", "png", "csv"):
                    assert (ROOT / "figures" / "demo" / f"{name}.{kind}").stat().st_size > 0, name
                assert len(pd.read_csv(ROOT / "figures" / "demo" / f"{name}.csv")), name


def test_no_committed_figure_is_an_orphan():
    saved = {
        ast.literal_eval(node.args[1])
        for path in NOTEBOOKS
        for cell in cells(path, "code")
        for node in ast.walk(ast.parse("".join(cell["source"])))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "figures.save"
    }
    committed = {s: {p.stem for p in (ROOT / "figures" / s).iterdir() if p.is_file()} for s in ("demo", "short")}
    assert committed["demo"] == saved
    assert committed["short"] <= saved


def test_every_scale_is_there_for_every_notebook():
    scales = yaml.safe_load((ROOT / "notebooks" / "scales.yaml").read_text())
    assert list(scales) == ["smoke", "demo", "short", "paper"]
    for name, blocks in scales.items():
        assert set(blocks or {}) - {"all", "on_request"} <= {p.stem for p in NOTEBOOKS}, name


def test_all_notebooks_run_at_smoke_scale(tmp_path):
    """The whole way: runs collected, trained in parallel, notebooks executed; then again, with nothing left to train."""
    environment = {**os.environ, "KD_RUNS": str(tmp_path / "runs")}
    command = [sys.executable, "-m", "kd_lib", "notebooks", "--scale", "smoke", "--jobs", "2"]
    first = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    made = sorted((tmp_path / "runs" / "notebooks" / "smoke").glob("*.ipynb"))
    assert [p.stem for p in made] == [p.stem for p in NOTEBOOKS]
    for path in made:
        assert all(c["execution_count"] for c in cells(path, "code") if "".join(c["source"]).strip())
    plan = subprocess.run(
        [*command, "--dry-run"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "to train: 0" in plan.stdout


def test_the_readme_shows_and_links_what_is_there():
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert len(targets) > 20 and missing == []
