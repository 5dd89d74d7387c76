"""run_all.sh finds or makes the environment it should, with stub Pythons that install in no time."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A Python that makes environments in no time: `-m venv` copies this script, `-m pip` only says that it was called, and
# what is started with the finished environment is printed. The rest goes to the real one.
FAKE_PYTHON = """#!{bash}
here="$(dirname "$0")"
case "$*" in
"-I -m venv "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
"-I -m pip install "*)
    echo "$*" >>"$PIP_CALLS"
    sleep "${{PIP_SECONDS:-0}}"
    if [ -n "${{PIP_FAILS:-}}" ]; then echo "no matching distribution"; exit 1; fi
    touch "$here/../installed" ;;
"-m kd_lib "* | "-m pytest "* | "-m ruff "*)
    echo "$0|$PWD|KD_RUNS=${{KD_RUNS:-}}|HOME=$HOME|PYC=${{PYTHONDONTWRITEBYTECODE:-}}|$*"
    [ "$2" != "${{FAILING:-}}" ] ;;
*"capacity-mismatch-kd") [ -f "$here/../installed" ] ;;
"-c import pytest, ruff, xdist") [ ! -f "$here/../no-test-tools" ] ;;
*) exec {python} "$@" ;;
esac
"""
OLD_PYTHON = """#!{bash}
exec {python} -c 'import sys; sys.version_info = (3, 9, 2); sys.argv = sys.argv[1:]; exec(sys.argv[-1])' "$@"
"""
NO_VENV_PYTHON = """#!{bash}
exec {python} -c 'import sys; sys.modules["ensurepip"] = None; exec(sys.argv[-1])' "$@"
"""
TOOLS = [
    "bash",
    "cat",
    "cp",
    "cut",
    "date",
    "dirname",
    "env",
    "grep",
    "ls",
    "mkdir",
    "mv",
    "rm",
    "sleep",
    "tail",
    "touch",
    "wc",
]


class Place:
    """A copy of what run_all.sh reads, in a folder with a space in its path, and a PATH with chosen Pythons only."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.elsewhere = folder / "a place", folder / "bin", folder / "elsewhere"
        self.venv, self.pip_calls = self.root / ".venv", folder / "pip-calls"
        self.stamp, self.unfinished = self.venv / "set-up-from", self.venv / "set-up-unfinished"
        for made in (self.root / "kd_lib", self.bin, self.elsewhere, folder / "home"):
            made.mkdir(parents=True)
        for name in ("run_all.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.environment = {"PATH": str(self.bin), "HOME": str(folder / "home"), "PIP_CALLS": str(self.pip_calls)}

    def add_python(self, path: Path, script: str = FAKE_PYTHON) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script.format(bash=shutil.which("bash"), python=f"'{sys.executable}'"))
        path.chmod(0o755)

    def activate(self, name: str, *, installed: bool) -> Path:
        self.add_python(self.root.parent / name / "bin" / "python")
        if installed:
            (self.root.parent / name / "installed").touch()
        return self.root.parent / name

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(self.root / "run_all.sh"), *arguments],
            env={**self.environment, **environment},
            cwd=self.elsewhere,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, code: int = 0, **environment: str) -> tuple[str, str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, out + err
        return out, err

    @property
    def installs(self) -> int:
        return len(self.pip_calls.read_text().splitlines()) if self.pip_calls.exists() else 0


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.add_python(place.bin / "python3")
    return place


@pytest.mark.parametrize("script", ["run_all.sh", ".ci/run"])
def test_scripts_parse_and_can_be_executed(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


def test_ci_runs_the_tests() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec ./run_all.sh --test"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--scale", "demo", "--help"]])
def test_help_needs_no_python_and_no_set_up(place: Place, arguments: list[str]) -> None:
    (place.bin / "python3").unlink()
    out, _ = place.run(*arguments)
    for word in ("--scale smoke|demo|short|paper", "--test", "figures/", "runs/", "KD_RUNS", "KD_DATA"):
        assert word in out
    assert not place.venv.exists()


def test_help_names_every_option_of_the_runner() -> None:
    source = (ROOT / "kd_lib" / "runner.py").read_text()
    text = (ROOT / "run_all.sh").read_text()
    options = re.findall(r'add_argument\(\s*"(-[-a-z]+)"', source)
    assert options
    assert [option for option in options if f"  {option} " not in text] == []


def test_first_use_makes_the_environment_and_later_uses_take_it(place: Place) -> None:
    out, _ = place.run("--scale", "smoke", "-p", "name=a b")
    assert "Setting up .venv" in out
    assert out.splitlines()[-1].startswith(f"{place.venv}/bin/python|{place.root}|")
    assert out.splitlines()[-1].endswith("|-m kd_lib notebooks --scale smoke -p name=a b")
    assert place.stamp.exists()
    assert not place.unfinished.exists()
    out, _ = place.run("--list")
    assert len(out.splitlines()) == 1
    assert place.installs == 1


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_installed_into_the_same_environment(place: Place, name: str) -> None:
    place.run()
    (place.venv / "something").touch()
    with (place.root / name).open("a") as file:
        file.write("# more\n")
    out, _ = place.run()
    assert "up to date" in out
    assert place.installs == 2
    assert (place.venv / "something").exists()
    place.run()
    assert place.installs == 2


def test_an_interrupted_set_up_is_never_taken_for_finished(place: Place) -> None:
    process = place.start(PIP_SECONDS="30")
    while not place.installs:
        assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "the next call sets up again" in err
    assert not place.stamp.exists()
    out, _ = place.run()
    assert "not finished" in out
    assert place.stamp.exists()
    assert place.installs == 2


def test_a_failed_set_up_shows_why_and_is_tried_again(place: Place) -> None:
    out, err = place.run(code=1, PIP_FAILS="1")
    assert "no matching distribution" in err
    assert str(place.venv / "set-up.log") in err
    assert "kd_lib notebooks" not in out
    place.run()
    assert place.installs == 2


def test_an_update_that_fails_leaves_nothing_to_be_taken_for_finished(place: Place) -> None:
    place.run()
    with (place.root / "constraints.txt").open("a") as file:
        file.write("# more\n")
    place.run(code=1, PIP_FAILS="1")
    assert not place.stamp.exists()
    place.run()
    assert place.installs == 3


def test_a_moved_checkout_gets_a_new_environment(place: Place) -> None:
    place.run()
    (place.venv / "something").touch()
    place.root = place.root.rename(place.root.with_name("moved"))
    out, _ = place.run()
    assert "made for another place" in out
    assert not (place.root / ".venv" / "something").exists()


def test_an_environment_whose_python_is_gone_is_made_again(place: Place) -> None:
    place.run()
    (place.venv / "bin" / "python").unlink()
    place.run()
    assert place.installs == 2


def test_a_foreign_environment_is_set_aside(place: Place) -> None:
    place.venv.mkdir()
    (place.venv / "mine").touch()
    out, _ = place.run()
    (aside,) = place.root.glob(".venv.2*")
    assert (aside / "mine").exists()
    assert str(aside) in out


def test_two_at_once_set_up_once(place: Place) -> None:
    processes = [place.start(PIP_SECONDS="2") for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert place.installs == 1
    assert sum("waiting for it" in out for out in outputs) == 1


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_activated_environment_that_holds_the_package_is_used_as_it_is(place: Place, variable: str) -> None:
    active = place.activate("my env", installed=True)
    out, _ = place.run(**{variable: str(active)})
    assert out.startswith(f"{active}/bin/python|")
    assert not place.venv.exists()
    assert place.installs == 0


def test_an_activated_environment_without_the_package_is_left_alone(place: Place) -> None:
    active = place.activate("other env", installed=False)
    out, _ = place.run(VIRTUAL_ENV=str(active))
    assert out.splitlines()[-1].startswith(f"{place.venv}/bin/python|")


def test_our_own_environment_is_kept_up_to_date_when_activated(place: Place) -> None:
    place.run()
    with (place.root / "constraints.txt").open("a") as file:
        file.write("# more\n")
    place.run(VIRTUAL_ENV=str(place.venv))
    assert place.installs == 2


def test_a_package_from_another_checkout_does_not_count(place: Place, tmp_path: Path) -> None:
    # The real check on a real Python: the distribution is installed, but kd_lib lies elsewhere.
    site = tmp_path / "site"
    (site / "kd_lib").mkdir(parents=True)
    (site / "kd_lib" / "__init__.py").touch()
    (place.root / "kd_lib" / "__init__.py").touch()
    (site / "capacity_mismatch_kd-0.1.0.dist-info").mkdir()
    (site / "capacity_mismatch_kd-0.1.0.dist-info" / "METADATA").write_text(
        "Name: capacity-mismatch-kd\nVersion: 0.1.0\n"
    )
    check = re.search(r"<<'PYTHON'\n(.*?)\nPYTHON\n", (ROOT / "run_all.sh").read_text(), re.S)[1]
    for root, expected in ((site, 0), (place.root, 1)):
        code = f"import sys; sys.path.insert(0, {str(site)!r})\n{check}"
        result = subprocess.run([sys.executable, "-I", "-", str(root), "capacity-mismatch-kd"], input=code, text=True)
        assert result.returncode == expected


def test_old_pythons_and_missing_modules_are_named(place: Place) -> None:
    place.add_python(place.bin / "python3", OLD_PYTHON)
    place.add_python(place.bin / "python3.12", NO_VENV_PYTHON)
    _, err = place.run(code=1)
    assert "Python 3.11 or newer" in err
    assert f"{place.bin}/python3 is Python 3.9" in err
    assert re.search(rf"{place.bin}/python3\.12 has no ensurepip module .*apt install python3\.\d+-venv", err)
    assert not place.venv.exists()


def test_a_newer_python_behind_an_old_one_is_found(place: Place) -> None:
    place.add_python(place.bin / "python3", OLD_PYTHON)
    place.add_python(place.bin / "python3.11")
    out, _ = place.run()
    assert f"({place.bin}/python3.11)" in out


def test_no_python_at_all(place: Place) -> None:
    (place.bin / "python3").unlink()
    assert "no Python at all" in place.run(code=1)[1]


def test_relative_folders_are_meant_from_where_the_user_stands(place: Place) -> None:
    out, _ = place.run(KD_RUNS="my runs")
    assert f"|KD_RUNS={place.elsewhere}/my runs|" in out


@pytest.mark.parametrize("home", ["", "/nowhere"])
def test_a_missing_home_is_replaced(place: Place, home: str) -> None:
    out, _ = place.run(HOME=home)
    assert f"|HOME={place.root}/.cache/home|" in out
    assert (place.root / ".cache" / "home").is_dir()


def test_what_is_imported_is_compiled_once(place: Place) -> None:
    assert "|PYC=|" in place.run(PYTHONDONTWRITEBYTECODE="1")[0]


def test_the_tests_are_linted_and_run_by_the_same_environment(place: Place) -> None:
    out, _ = place.run("--test", "-k", "a or b")
    called = [line.rpartition("|")[2] for line in out.splitlines() if line.startswith(str(place.venv))]
    assert called == ["-m ruff check .", "-m ruff format --check .", "-m pytest -n 2 -k a or b"]


@pytest.mark.parametrize("tool", ["ruff", "pytest", "kd_lib"])
def test_a_failure_is_the_exit_code(place: Place, tool: str) -> None:
    place.run(*([] if tool == "kd_lib" else ["--test"]), code=1, FAILING=tool)


def test_an_activated_environment_without_the_test_tools_is_told_how_to_get_them(place: Place) -> None:
    active = place.activate("my env", installed=True)
    (active / "no-test-tools").touch()
    _, err = place.run("--test", code=1, VIRTUAL_ENV=str(active))
    assert f"{active}/bin/python -m pip install -c constraints.txt -e '.[dev]'" in err
