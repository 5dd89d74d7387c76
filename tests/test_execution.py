"""The execution of notebooks: what is kept, and what is left behind when something breaks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import toy_notebooks
from toy_notebooks import DEMO, ROOT, output, write_notebook

from kd_lib import notebooks
from kd_lib.runner import main, source_hash

folder, two = toy_notebooks.folder, toy_notebooks.two  # fixtures

DIE = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
# a cell that neither ends nor listens, with a process below it
STUCK = """import signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
below = subprocess.Popen(["sleep", "1000"])
open("below.pid", "w").write(str(below.pid))
time.sleep(1000)"""


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
