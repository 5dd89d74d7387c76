"""The strict runner: what it refuses, what it lists, and the runs that it trains before any notebook is executed."""

import json
import os
import signal
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
import toy_notebooks
from toy_notebooks import DEMO, ROOT, output, write_notebook

from kd_lib import execution, notebooks, parameters
from kd_lib.paths import project_root
from kd_lib.runner import collect_runs, main, stale

folder, two = toy_notebooks.folder, toy_notebooks.two  # fixtures

REAL = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


# The command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-p epoch=3", "unknown parameter: 'epoch'. Did you mean 'epochs'?"),
        ("--only 4 -p seeds=0", "unknown parameter: 'seeds'. Allowed: epochs, plot."),
        ("-p epochs=abc", "parameter 'epochs' of 00_first: expects int, got 'abc'"),
        ("-p plot=yes", "parameter 'plot' of 04_second: expects bool (True or False), got 'yes'"),
        ("-p seeds=0,a", "parameter 'seeds' of 00_first: expects list of int, got [0, 'a']"),
        ("-p epochs", "-p expects name=value, got 'epochs'"),
        ("-p scale=smoke", "scale is set by --scale alone"),
        ("--only 7", "unknown notebook: '07'. Allowed: 00_first, 04_second."),
        ("--scale smok", "unknown scale: 'smok'. Did you mean 'smoke'?"),
        ("--scal smoke", "unknown argument: '--scal'. Did you mean '--scale'?"),
        ("04", "unknown argument: '04'"),
        ("--jobs 0", "--jobs expects at least 1, got 0"),
        ("--jobs many", "invalid int value: 'many'"),
        ("--publish --scale smoke", "--publish is for scale demo"),
        ("--publish -p epochs=3", "--publish is for scale demo"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(two, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(execution, "execute_all", lambda *a, **k: pytest.fail("notebooks were executed"))
    assert main(arguments.split(), notebooks=two) == 2
    assert message in capsys.readouterr().err


def test_a_refusal_takes_less_than_two_seconds_and_loads_nothing_heavy(two):
    code = (
        "import sys; from pathlib import Path; from kd_lib.runner import main\n"
        f"status = main(['-p', 'epoch=3'], notebooks=Path({str(two)!r}))\n"
        "print(sorted({'torch', 'papermill', 'nbformat', 'pandas'} & set(sys.modules)))\n"
        "sys.exit(status)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    assert (done.returncode, done.stdout) == (2, "[]\n"), done.stderr
    assert "Did you mean 'epochs'?" in done.stderr
    assert seconds < 2


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([("", "a = 1")], "01_odd has no cell tagged 'parameters'"),
        ([("parameters", DEMO), ("parameters", "a = 1")], "2 cells are tagged 'parameters'"),
        ([("parameters", f"{DEMO}\na = len([])")], "the parameters cell of 01_odd, line 2"),
    ],
)
def test_notebooks_without_a_proper_parameters_cell_are_named(folder, capsys, cells, message):
    write_notebook(folder, "01_odd", *cells)
    assert main(["--list"], notebooks=folder) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_notebooks_is_an_error(folder, capsys):
    assert main([], notebooks=folder) == 2
    assert "no notebooks" in capsys.readouterr().err


def test_list_shows_questions_parameters_and_cost(two, capsys):
    path = two / "04_second.ipynb"
    notebook = json.loads(path.read_text())
    notebook["metadata"]["kd"] = {"seconds": 17}
    path.write_text(json.dumps(notebook))
    (two / "scales.yaml").write_text("smoke: {all: {epochs: 1}}")
    assert main(["--list", "--scale", "smoke", "-p", "seeds=7"], notebooks=two) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert shown[0] == "00 What is it?"
    assert "epochs = 1 of each student" in shown and "seeds = [7]" in shown and "scale = 'smoke'" in shown
    assert any(line.startswith("04 Why?") and "17 s" in line for line in shown)
    assert main(["--list", "--only", "4"], notebooks=two) == 2, "scales.yaml has no demo block"


def test_help_is_not_an_error(capsys):
    assert main(["--help"]) == 0
    assert "--dry-run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ("dmeo: {}", "unknown scale in scales.yaml: 'dmeo'. Did you mean 'demo'?"),
        ("demo: {", "scales.yaml is not YAML"),
        ("smoke: {}", "scales.yaml has no block for scale 'demo'"),
        ("demo: {00_frist: {}}", "'00_frist'. Did you mean '00_first'?"),
        ("demo: {00_first: {epoch: 1}}", "scale demo, 00_first: 'epoch'. Did you mean 'epochs'?"),
        ("demo: {04_second: {lr: 1.0}}", "scale demo, 04_second: 'lr'"),
        ("demo: {all: {epoch: 1}}", "scale demo, all: 'epoch'. Did you mean 'epochs'?"),
        ("demo: {00_first: {epochs: one}}", "'epochs' in scales.yaml at scale demo, 00_first: expects int, got 'one'"),
        ("demo: {all: {scale: demo}}", "scale is set by --scale alone"),
    ],
)
def test_mistakes_in_scales_yaml_are_named(two, capsys, scales, message):
    (two / "scales.yaml").write_text(scales)
    assert main(["--list"], notebooks=two) == 2
    assert message in capsys.readouterr().err


# Runs


@pytest.fixture
def toy_plan(tmp_path, monkeypatch):
    """Stands in for kd_lib.config and kd_lib.plan: runs are names, and those that hold "bad" never finish."""
    (tmp_path / "toy_runs.py").write_text(
        "class Run:\n"
        "    def __init__(self, label):\n        self.label = label\n"
        "    @property\n    def key(self):\n"
        "        if self.label == 'absent':\n"
        "            raise FileNotFoundError('CIFAR-100 is not here: 160 MB from its hub')\n"
        "        return self.label\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_runs", raising=False)
    from toy_runs import Run

    config, plan = ModuleType("kd_lib.config"), ModuleType("kd_lib.plan")
    config.Run = Run
    plan.RunFailed = type("RunFailed", (RuntimeError,), {})
    plan.executed = []

    def steps(runs):
        return [SimpleNamespace(label=r.label, state="new" if "bad" in r.label else "done") for r in runs]

    def execute(runs, *, jobs=None):
        plan.executed.append(([run.label for run in runs], jobs))
        if any("bad" in run.label for run in runs):
            raise plan.RunFailed("bad: loss is not finite")

    plan.plan, plan.execute = steps, execute
    plan.describe = lambda planned, jobs: f"{len(planned)} planned for {jobs}"
    monkeypatch.setitem(sys.modules, "kd_lib.config", config)
    monkeypatch.setitem(sys.modules, "kd_lib.plan", plan)
    return plan


def notebook_with_runs(folder, name, runs, *more):
    first = ("imports", "from toy_runs import Run"), ("parameters", f"{DEMO}\nseeds = [0, 1]")
    return write_notebook(folder, name, *first, ("", "1 / 0"), ("runs", f"runs = {runs}"), *more)


def test_runs_are_collected_from_the_declaring_cells_alone(folder, toy_plan):
    path = notebook_with_runs(folder, "01_a", "{'kd': [Run(f's{s}') for s in seeds], 'teacher': (Run('t'), [])}")
    assert [run.label for run in collect_runs(path, {})] == ["s0", "s1", "t"]
    assert [run.label for run in collect_runs(path, {"seeds": [5]})] == ["s5", "t"]
    parts = ("parameters", DEMO), ("declarations", "made = [Run('t')]"), ("", "made = 0"), ("runs", "runs = made")
    path = write_notebook(folder, "03_parts", ("imports", "from toy_runs import Run"), *parts)
    assert [run.label for run in collect_runs(path, {})] == ["t"]
    assert collect_runs(write_notebook(folder, "02_none", ("parameters", DEMO)), {}) == []


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([("parameters", DEMO), ("runs", "runs = [1]")], r"01_a, code cell 2 \(`runs = \[1\]`\): .* holds 1, which is"),
        ([("parameters", DEMO), ("runs", "runs = ep")], r"code cell 2 \(`runs = ep`\): NameError: name 'ep'"),
        ([("parameters", DEMO), ("runs", "wanted = []")], r"code cell 2 .*: KeyError: 'runs'"),
        ([("runs", "runs = []"), ("parameters", DEMO)], "01_a: the cell tagged 'runs' comes before the parameters"),
        ([("parameters", DEMO), ("runs", "runs = []"), ("runs", "runs = []")], "2 cells are tagged 'runs'"),
    ],
)
def test_a_runs_cell_that_does_not_declare_runs_is_named(folder, toy_plan, cells, message):
    with pytest.raises(ValueError, match=message):
        collect_runs(write_notebook(folder, "01_a", *cells), {})


def test_absent_data_is_told_before_anything_is_trained(folder, toy_plan, capsys):
    notebook_with_runs(folder, "01_a", "[Run('absent')]")
    notebook_with_runs(folder, "02_b", "[Run('teacher')]")
    message = "cannot plan 01_a, code cell 4 (`runs = [Run('absent')]`): FileNotFoundError: CIFAR-100 is not here"
    assert main([], notebooks=folder) == 1
    assert message in capsys.readouterr().err
    assert main(["--dry-run"], notebooks=folder) == 0
    shown = capsys.readouterr()
    assert message in shown.err and "1 planned" in shown.out
    assert "02_b ->" in shown.out and "01_a ->" not in shown.out
    assert toy_plan.executed == [] and not output(folder, "02_b").exists()


def test_all_runs_are_trained_in_one_go_and_a_failed_one_stops_its_notebook_only(folder, toy_plan, capsys):
    done = ("", "print('executed with', seeds)")
    for name, runs in (("01_a", "[Run('teacher'), Run('bad')]"), ("02_b", "[Run('teacher')]")):
        path = write_notebook(
            folder,
            name,
            ("imports", "from toy_runs import Run"),
            ("parameters", f"{DEMO}\nseeds = [0]"),
            ("runs", f"runs = {runs}"),
            done,
        )
        assert path.exists()
    assert main(["--jobs", "2", "-p", "seeds=3"], notebooks=folder) == 1
    shown = capsys.readouterr()
    assert toy_plan.executed == [(["teacher", "bad", "teacher"], 2)]
    assert "bad: loss is not finite" in shown.err
    assert "not executed, because a run failed: bad not finished" in shown.out
    assert "1 of 2 notebooks ok; failed: 01_a" in shown.out
    assert not output(folder, "01_a").exists()
    assert "executed with [3]" in output(folder, "02_b").read_text()


def test_an_interrupted_training_says_how_to_go_on(folder, toy_plan, capsys, monkeypatch):
    def interrupted(runs, *, jobs=None):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    path = write_notebook(
        folder, "01_a", ("imports", "from toy_runs import Run"), ("parameters", DEMO), ("runs", "runs = [Run('t')]")
    )
    assert path.exists()
    monkeypatch.setattr(toy_plan, "execute", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert main(["--scale", "demo"], notebooks=folder) == 130
    told = capsys.readouterr().err
    assert "interrupted in the training of runs" in told
    assert "run the same command again: finished runs are kept" in told
    assert "python -m kd_lib notebooks --scale demo" in told
    assert signal.getsignal(signal.SIGINT) is before


# The notebooks of this repository


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_committed_outputs_belong_to_the_code(path):
    assert stale(notebooks.read(path)) == []


@pytest.mark.skipif(not REAL, reason="there are no notebooks")
@pytest.mark.parametrize("scale", parameters.SCALES)
def test_scales_fit_the_notebooks(scale, capsys):
    assert main(["--list", "--scale", scale]) == 0, capsys.readouterr().err


# Notebooks on request


def test_a_notebook_on_request_runs_when_it_is_asked_for_only(two, capsys):
    (two / "scales.yaml").write_text("demo: {on_request: [04_second]}")
    assert main(["--dry-run"], notebooks=two) == 0
    text = capsys.readouterr().out
    assert "00_first ->" in text
    assert "04_second ->" not in text
    assert "Left out, because they train longer: 04_second. To run them: --only 04" in text
    for asked in (["--only", "4"], ["--all"]):
        assert main(["--dry-run", *asked], notebooks=two) == 0
        text = capsys.readouterr().out
        assert "04_second ->" in text
        assert "Left out" not in text
    assert main(["--list"], notebooks=two) == 0
    assert "04  Why?  [on request: --only or --all]" in capsys.readouterr().out


def test_a_notebook_on_request_that_does_not_exist_is_named(two, capsys):
    (two / "scales.yaml").write_text("demo: {on_request: [04_secnd]}")
    assert main(["--dry-run"], notebooks=two) == 2
    assert "Did you mean '04_second'?" in capsys.readouterr().err
