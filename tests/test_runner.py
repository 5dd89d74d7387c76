"""The strict runner: what it refuses, what it executes, and what it leaves behind when something breaks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest
from tiny import TEACHER

from kd_lib import execution, notebooks, parameters
from kd_lib.paths import project_root
from kd_lib.plan import ensure
from kd_lib.runner import collect_runs, main, source_hash, stale

ROOT = Path(__file__).parents[1]
REAL = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
DEMO = 'scale = "demo"'
DIE = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
# a cell that neither ends nor listens, with a process below it
STUCK = """import signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
below = subprocess.Popen(["sleep", "1000"])
open("below.pid", "w").write(str(below.pid))
time.sleep(1000)"""


def write_notebook(folder: Path, name: str, *cells: tuple[str, str]) -> Path:
    """Cells are (tag, source); the tag "prose" makes a Markdown cell."""
    made = []
    for number, (tag, source) in enumerate(cells):
        cell = {"cell_type": "markdown", "id": f"c{number}", "metadata": {}, "source": source}
        if tag != "prose":
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
            cell["metadata"] = {"tags": [tag]} if tag else {}
        made.append(cell)
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    path = folder / f"{name}.ipynb"
    content = {"cells": made, "metadata": kernel | {"language_info": {"name": "python"}}, "nbformat": 4}
    path.write_text(json.dumps(content | {"nbformat_minor": 5}))
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty notebooks folder with a scales.yaml; the run store lies beside it."""
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "store"))
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "scales.yaml").write_text("demo:\nsmoke:\n")
    return folder


@pytest.fixture
def two(folder):
    """Two notebooks without runs."""
    first = f"{DEMO}\nepochs = 3  # of each student\nlr = 0.1\nseeds = [0, 1]\nsizes = (8, 16)\nlimit = None"
    write_notebook(folder, "00_first", ("prose", "# What is it?"), ("parameters", first), ("runs", "runs = []"))
    write_notebook(folder, "04_second", ("prose", "Why?"), ("parameters", f"{DEMO}\nepochs = 5\nplot = True"))
    return folder


def output(folder: Path, name: str, scale: str = "demo") -> Path:
    return folder.parent / "store" / "notebooks" / scale / f"{name}.ipynb"


# Parameters


def test_a_parameters_cell_gives_defaults_and_help():
    code = "# sizes\nscale = 'demo'\ntau = -1.5  # temperature\nseeds = [\n    0,\n    1,\n]  # of students\n"
    found = parameters.declared(code, "the cell")
    assert {name: tuple(parameter) for name, parameter in found.items()} == {
        "scale": ("demo", ""),
        "tau": (-1.5, "temperature"),
        "seeds": ([0, 1], "of students"),
    }


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("epochs = 2 * 3", "line 2: expects name = literal"),
        ("a = b = 1", "line 2: expects name = literal"),
        ("a: int = 1", "line 2: expects name = literal"),
        ("a = {'b': 1}", "line 2: expects name = literal"),
        ("import os", "line 2: expects name = literal"),
        ("a = 1\na = 2", "line 3: 'a' is there twice"),
        ("a = ", "line 2: invalid syntax"),
    ],
)
def test_a_parameters_cell_that_is_not_plain_is_refused(code, message):
    with pytest.raises(ValueError, match=message):
        parameters.declared(f"{DEMO}\n{code}", "the cell")
    with pytest.raises(ValueError, match="the cell lacks `scale"):
        parameters.declared("a = 1", "the cell")


@pytest.mark.parametrize(
    ("value", "default", "fitted"),
    [
        (2, 1, 2),
        (2, 1.0, 2.0),
        ("kd", "atkd", "kd"),
        (False, True, False),
        ([2, 3], [0.5, 1], [2.0, 3.0]),
        ([1], (8, 16), (1,)),
        ((1, 2), [0], [1, 2]),
        ([["a"], []], [["b", "c"]], [["a"], []]),
        (["a", 1], [], ["a", 1]),
        ("anything", None, "anything"),
    ],
)
def test_values_that_fit_are_converted(value, default, fitted):
    result = parameters.fit(value, default)
    assert result == fitted and type(result) is type(fitted)
    if isinstance(fitted, list | tuple):
        assert [type(element) for element in result] == [type(element) for element in fitted]


@pytest.mark.parametrize(
    ("value", "default", "message"),
    [
        ("abc", 1, "expects int, got 'abc'"),
        (True, 1, "expects int, got True"),
        (1.0, 1, r"expects int, got 1\.0"),
        (1, True, r"expects bool \(True or False\), got 1"),
        (False, 1.0, "expects float, got False"),
        ("1e-3", 0.1, "expects float, got '1e-3'"),
        (5, "kd", "expects str, got 5"),
        (None, 1, "expects int, got None"),
        (3, [0, 1], "expects list of int, got 3"),
        ([0, "a"], [0, 1], r"expects list of int, got \[0, 'a'\]"),
        ([0.5], (8, 16), r"expects tuple of int, got \[0\.5\]"),
    ],
)
def test_values_of_the_wrong_type_are_refused(value, default, message):
    with pytest.raises(ValueError, match=message):
        parameters.fit(value, default)


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("3", 1, 3),
        ("1e-3", 0.1, 0.001),
        ("kd", "atkd", "kd"),
        ("'kd'", "atkd", "kd"),
        ("0,1", [5], [0, 1]),
        ("0,", [5], [0]),
        ("0", [5], [0]),
        ("[0, 1]", [5], [0, 1]),
        ("(0, 1)", [5], (0, 1)),
        ("kd, atkd", ["ft"], ["kd", "atkd"]),
        ("None", None, None),
        ("true", True, "true"),
    ],
)
def test_text_of_the_command_line_becomes_a_value(text, default, value):
    assert parameters.from_text(text, default) == value


def test_scales_set_what_notebooks_declare():
    first = parameters.declared(f"{DEMO}\nepochs = 3\nlr = 0.1\nsizes = (8,)", "1")
    second = parameters.declared(f"{DEMO}\nepochs = 5", "2")
    scales = {"smoke": {"all": {"epochs": 1, "lr": 1}, "01_first": {"epochs": 2, "sizes": [4, 8]}}, "demo": None}
    assert parameters.from_scales({"01_first": first, "02_second": second}, scales, "smoke") == {
        "01_first": {"scale": "smoke", "epochs": 2, "lr": 1.0, "sizes": (4, 8)},
        "02_second": {"scale": "smoke", "epochs": 1},
    }
    assert parameters.from_scales({"02_second": second}, scales, "demo") == {
        "02_second": {"scale": "demo", "epochs": 5}
    }


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


# Execution


def test_a_notebook_is_executed_with_its_parameters_and_kept(two, capsys):
    show = "import os\nprint(scale, epochs, lr, sizes, limit, os.path.basename(os.getcwd()), os.environ['KD_PROGRESS'])"
    path = two / "00_first.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"].append(notebook["cells"][1] | {"id": "last", "metadata": {}, "source": show})
    path.write_text(json.dumps(notebook))
    arguments = ["--scale", "smoke", "--only", "0", "-p", "sizes=4,", "-p", "lr=1", "-p", "limit=it's"]
    assert main(arguments, notebooks=two) == 0
    executed = notebooks.read(output(two, "00_first", "smoke"))
    assert notebooks.execution_problem(executed) is None
    text = notebooks.source(
        notebooks.code_cells(executed)[-1] | {"source": executed["cells"][-1]["outputs"][0]["text"]}
    )
    assert text == "smoke 3 1.0 (4,) it's notebooks sparse\n"
    shown = capsys.readouterr().out
    assert "1 of 1 notebooks ok" in shown and "00_first: started" in shown
    assert list(output(two, "00_first", "smoke").parent.iterdir()) == [output(two, "00_first", "smoke")]
    assert source_hash(executed) == source_hash(notebook), "injected parameters do not count"


def test_broken_notebooks_leave_nothing_under_their_names_and_say_which_cell(folder, capsys):
    for name, code in {
        "01_dead": DIE,
        "02_quits": "import sys\nsys.exit(0)",
        "03_raises": "print('so far')\nraise ValueError('tau = 0')",
        "04_skips": "never = 1",
        "05_fine": "print(1)",
    }.items():
        write_notebook(folder, name, ("prose", "# Q"), ("parameters", DEMO), ("", "x = 1"), ("", code), ("", "y = x"))
    skipping = notebooks.read(folder / "04_skips.ipynb")
    skipping["cells"][3]["metadata"]["tags"] = ["skip-execution"]
    (folder / "04_skips.ipynb").write_text(json.dumps(skipping))
    assert main(["--scale", "smoke", "--jobs", "2"], notebooks=folder) == 1
    shown = capsys.readouterr().out
    assert "code cell 3 (`import os, signal`): the kernel died (often out of memory" in shown
    assert "code cell 3 (`import sys`): SystemExit: 0" in shown
    assert "code cell 3 (`print('so far')`): ValueError: tau = 0" in shown
    assert "code cell 3 (`never = 1`): not executed" in shown
    assert "1 of 5 notebooks ok; failed: 01_dead, 02_quits, 03_raises, 04_skips" in shown
    kept = sorted(path.name for path in output(folder, "", "smoke").parent.iterdir())
    failed = [f"{name}.failed.txt" for name in ("01_dead", "02_quits", "03_raises", "04_skips")]
    assert kept == [*failed, "05_fine.ipynb"]
    report = output(folder, "03_raises", "smoke").with_suffix(".failed.txt").read_text()
    assert "raise ValueError('tau = 0')" in report and "\x1b" not in report


def test_a_later_success_takes_the_report_away_and_a_later_failure_keeps_the_result(folder, capsys):
    code = "import pathlib\nassert pathlib.Path('good').exists()"
    write_notebook(folder, "01_a", ("parameters", DEMO), ("", code))
    report = output(folder, "01_a").with_suffix(".failed.txt")
    assert main([], notebooks=folder) == 1
    assert report.exists() and "earlier result" not in capsys.readouterr().out
    (folder / "good").touch()
    assert main([], notebooks=folder) == 0
    assert not report.exists()
    kept = output(folder, "01_a").read_bytes()
    (folder / "good").unlink()
    assert main([], notebooks=folder) == 1
    assert "an earlier result is still there" in capsys.readouterr().out
    assert output(folder, "01_a").read_bytes() == kept


def start_stuck(folder: Path, tmp_path: Path) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """The runner in a session of its own, in the middle of a cell that does not end, and all processes below it."""
    write_notebook(folder, "01_stuck", ("prose", "# Q"), ("parameters", DEMO), ("", "x = 1"), ("", STUCK))
    (tmp_path / "tmp").mkdir()
    code = (
        "import sys, pathlib; from kd_lib.runner import main; sys.exit(main([], notebooks=pathlib.Path(sys.argv[1])))"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    marker, deadline = folder / "below.pid", time.monotonic() + 60
    while not (marker.exists() and marker.read_text()):
        assert runner.poll() is None, runner.communicate()
        assert time.monotonic() < deadline, "the notebook did not start"
        time.sleep(0.1)
    below = psutil.Process(runner.pid).children(recursive=True)
    assert int(marker.read_text()) in [process.pid for process in below]
    return runner, below


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    "stop",
    [
        lambda runner: os.killpg(runner.pid, signal.SIGINT),
        lambda runner: runner.send_signal(signal.SIGTERM),
        lambda runner: [runner.send_signal(signal.SIGINT), time.sleep(0.3), runner.send_signal(signal.SIGINT)],
    ],
    ids=["ctrl-c", "sigterm", "ctrl-c twice"],
)
def test_an_interruption_leaves_no_process_and_no_file(folder, tmp_path, stop):
    runner, below = start_stuck(folder, tmp_path)
    stop(runner)
    _, told = runner.communicate(timeout=30)
    assert runner.returncode == 130, told
    assert "interrupted in 01_stuck, code cell 3 (`import signal, subprocess, time`)" in told
    assert "run the same command again: finished runs are kept" in told and "Traceback" not in told
    assert alive(below) == []
    assert not (tmp_path / "store").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_killed_runner_takes_its_kernels_along(folder, tmp_path):
    runner, below = start_stuck(folder, tmp_path)
    runner.kill()
    runner.communicate()
    kernels = [process for process in below if process.name() != "sleep"]
    _, left = psutil.wait_procs(kernels, timeout=10)
    for process in alive(below):  # what a kernel started is the kernel's to end
        process.kill()
    assert alive(left) == []
    assert not (tmp_path / "store").exists()


# Publishing


def test_publishing_puts_outputs_beside_the_code_and_nothing_else(folder, capsys):
    cells = ("prose", "# Q"), ("parameters", f"{DEMO}\nepochs = 3"), ("", "print('a')\nprint('b')"), ("", "epochs * 2")
    path = write_notebook(folder, "01_a", *cells, ("", ""))
    before = notebooks.read(path)
    assert stale(before) == ["it was not published: metadata.kd is missing"]
    assert main(["--publish"], notebooks=folder) == 0
    text = path.read_text()
    after = json.loads(text)
    assert stale(after) == []
    assert text.startswith('{\n "cells": [\n  {') and text.endswith("}\n") and not text.endswith("\n\n")
    stamp = after["metadata"].pop("kd")
    assert stamp == {"scale": "demo", "seconds": stamp["seconds"], "source": source_hash(before)}
    assert after["metadata"] == before["metadata"]
    for old, new in zip(before["cells"], after["cells"], strict=True):
        assert notebooks.source(new) == old["source"]
        assert (new["id"], new["metadata"]) == (old["id"], old["metadata"])
    counts = [cell["execution_count"] for cell in after["cells"] if cell["cell_type"] == "code"]
    assert counts == [1, 2, 3, None]
    assert after["cells"][2]["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["a\n", "b\n"]}]
    assert after["cells"][3]["outputs"][0]["execution_count"] == 3
    assert after["cells"][3]["outputs"][0]["data"] == {"text/plain": ["6"]}
    assert main(["--publish"], notebooks=folder) == 0
    again = json.loads(path.read_text())
    del again["metadata"]["kd"]
    assert again == after


def test_other_scales_are_published_beside_the_notebooks(folder, capsys):
    path = write_notebook(folder, "01_a", ("parameters", f"{DEMO}\nepochs = 3"), ("", "print(scale, epochs * 2)"))
    (folder / "scales.yaml").write_text("demo: {}\nshort: {all: {epochs: 5}}")
    before = path.read_bytes()
    assert main(["--publish", "--scale", "short"], notebooks=folder) == 0
    assert path.read_bytes() == before
    copy = notebooks.read(folder / "short" / "01_a.ipynb")
    assert copy["metadata"]["kd"]["scale"] == "short" and copy["metadata"]["kd"]["source"] == source_hash(copy)
    assert copy["cells"][-1]["outputs"][0]["text"] == ["short 10\n"]
    assert notebooks.source(copy["cells"][1]) == "scale = 'short'\nepochs = 5"
    assert [cell["execution_count"] for cell in copy["cells"]] == [1, 2, 3]
    assert main(["--list"], notebooks=folder) == 0
    assert capsys.readouterr().out.count("01 ") == 1, "a copy is no notebook of its own"


def test_published_notebooks_come_with_the_ledger_of_their_runs(folder):
    (trained,) = ensure([TEACHER])
    cells = ("imports", "import kd_lib as kd"), ("parameters", DEMO)
    runs = f"runs = {{'teacher': kd.Run(**{TEACHER.model_dump(exclude_defaults=True)})}}"
    write_notebook(folder, "01_a", *cells, ("runs", runs))
    assert main(["--publish"], notebooks=folder) == 0
    (path,) = (folder.parent / "figures").glob("*/*/*")
    assert path.relative_to(folder.parent).as_posix() == "figures/demo/runs/01_a.csv"
    assert path.read_text().splitlines()[1].startswith(f'{trained.run.key},"resnet8-w4, seed 0"')


def test_nothing_is_published_where_one_notebook_fails_or_shows_this_machine(folder, capsys):
    paths = [write_notebook(folder, "01_a", ("parameters", DEMO), ("", "print(1)"))]
    paths += [write_notebook(folder, "02_b", ("parameters", DEMO), ("", "import sys\nprint(sys.prefix)"))]
    before = [path.read_bytes() for path in paths]
    assert main(["--publish"], notebooks=folder) == 1
    told = capsys.readouterr().err
    assert (
        f"nothing is published: 02_b, code cell 2 (`import sys`): its output holds the machine's path {sys.prefix}"
        in told
    )
    paths[1] = write_notebook(folder, "02_b", ("parameters", DEMO), ("", "1 / 0"))
    before[1] = paths[1].read_bytes()
    assert main(["--publish"], notebooks=folder) == 1
    assert [path.read_bytes() for path in paths] == before


def test_demo_is_what_the_notebooks_declare(two, capsys):
    (two / "scales.yaml").write_text("demo: {00_first: {epochs: 4}}")
    assert main(["--publish"], notebooks=two) == 2
    assert "00_first declares, but scales.yaml sets {'epochs': 4}" in capsys.readouterr().err


def executed_notebook(**changes):
    def code(source, count, outputs=(), tags=()):
        metadata = {"tags": list(tags)}
        content = {"source": source, "execution_count": count, "outputs": list(outputs)}
        return {"cell_type": "code", "metadata": metadata} | content

    cells = [code(DEMO, 1, tags=["parameters"]), code(["a = 1\n", "a"], 2), code("", None)]
    return {"cells": cells, "metadata": {}} | changes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda n: n["cells"][1].update(source="a = 2\na"), "code changed after the outputs were made"),
        (lambda n: n["cells"].reverse(), "code changed after the outputs were made"),
        (lambda n: n["cells"][1].update(execution_count=None), "code cell 2 (`a = 1`): not executed"),
        (lambda n: n["cells"][1].update(execution_count=7), "execution counts are [1, 7], not 1 to 2"),
        (lambda n: n["metadata"]["kd"].update(scale="smoke"), "outputs are of scale 'smoke', not 'demo'"),
        (
            lambda n: n["cells"][1]["outputs"].append({"output_type": "error", "ename": "E", "evalue": "v"}),
            "code cell 2 (`a = 1`): E: v",
        ),
        (
            lambda n: n["cells"].append(n["cells"][0] | {"metadata": {"tags": ["injected-parameters"]}}),
            "it holds injected parameters",
        ),
    ],
)
def test_outputs_that_do_not_belong_to_the_code_are_noticed(change, reason):
    notebook = executed_notebook()
    notebook["metadata"]["kd"] = {"scale": "demo", "seconds": 1, "source": source_hash(notebook)}
    assert stale(notebook) == []
    change(notebook)
    assert reason in stale(notebook)


def test_the_hash_of_the_code_depends_on_code_alone():
    notebook = executed_notebook()
    same = executed_notebook(metadata={"any": 1})
    same["cells"][1] |= {"source": "a = 1\na", "outputs": [1], "execution_count": 9}
    same["cells"].insert(0, {"cell_type": "markdown", "source": "prose", "metadata": {}})
    assert source_hash(same) == source_hash(notebook)
    moved = executed_notebook()
    moved["cells"][0]["source"] += "\na = 1\n"
    moved["cells"][1]["source"] = "a"
    assert source_hash(moved) != source_hash(notebook), "a line that moves to another cell is a change"


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ({"output_type": "stream", "text": [f"{Path.home()}/x\n"]}, True),
        ({"output_type": "stream", "text": f"see ({project_root()})"}, True),
        ({"output_type": "stream", "text": f"{Path.home()}-and-more"}, False),
        ({"output_type": "display_data", "data": {"text/html": f"<a href='{sys.prefix}/lib'>"}}, True),
        ({"output_type": "display_data", "data": {"application/json": {"a": [str(Path.home())]}}}, True),
        ({"output_type": "display_data", "data": {"image/png": f"{Path.home()}/"}}, False),
    ],
)
def test_paths_of_this_machine_are_found_in_text_but_not_in_encoded_images(output, found):
    executed = executed_notebook()
    executed["cells"][1]["outputs"] = [output]
    if found:
        with pytest.raises(ValueError, match=r"code cell 2 \(`a = 1`\): its output holds the machine's path"):
            notebooks.published(executed_notebook(), executed, 1.0)
    else:
        assert stale(notebooks.published(executed_notebook(), executed, 1.0)) == []


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
