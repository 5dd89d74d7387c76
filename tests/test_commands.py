"""`python -m kd_lib`: what people type."""

import json
import os
import subprocess
import sys

import pytest
from tiny import TEACHER, student

from kd_lib import claims, runs
from kd_lib.__main__ import main
from kd_lib.benchmark import throughput


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(tmp_path))


def test_run_takes_json_a_file_and_a_key(tmp_path, capsys):
    assert main(["run", TEACHER.model_dump_json()]) == 0
    path = tmp_path / "run.json"
    path.write_text(TEACHER.model_dump_json())
    assert main(["run", str(path)]) == 0
    assert main(["run", TEACHER.key[:6]]) == 0
    assert TEACHER.label in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "word"), [('{"network": "resnet21"}', "resnet20"), ('{"netwrk": "x"}', "network"), ("ffff", "0 desc")]
)
def test_run_refuses_what_it_cannot_read(text, word, capsys):
    assert main(["run", text]) == 2
    assert word in capsys.readouterr().err


def test_a_run_that_diverges_says_so_and_exits_with_1(capsys):
    assert main(["run", TEACHER.replace(lr=1e30, schedule="step").model_dump_json()]) == 1
    assert "NonFiniteLoss" in capsys.readouterr().err


def test_verify_names_damage_and_touches_nothing(capsys):
    result = runs.ensure(student("kd"))
    assert main(["verify"]) == 0
    assert "2 runs" in capsys.readouterr().out
    path = result.folder / "weights.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert main(["verify"]) == 1
    out = capsys.readouterr().out
    assert "weights.safetensors differ" in out
    assert "1 whole, 1 damaged" in out
    assert path.exists()


def test_verify_compares_the_committed_figures_with_the_runs(capsys, monkeypatch):
    assert main(["verify"]) == 0
    assert "committed: 0 runs and 0 verdicts compared with the store, 0 faults" in capsys.readouterr().out
    monkeypatch.setattr(claims, "compare_verdicts", lambda scale: (1, [f"{scale} differs"]))
    assert main(["verify"]) == 1
    out = capsys.readouterr().out
    assert "paper differs" in out
    assert "committed: 0 runs and 4 verdicts compared with the store, 4 faults" in out


def test_doctor_reports_what_people_ask_for(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("torch", "torchvision   works", "device", "cores", "run store", "KD_DATA", "digits100", "cifar100"):
        assert word in out


def test_the_command_line_answers_without_torch():
    """`import kd_lib` and a refused command are quick, because torch is loaded only where it is used."""
    code = "import sys, kd_lib, kd_lib.__main__; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", f"import json; {code}"], capture_output=True, text=True, env={**os.environ}, check=True
    )
    loaded = set(json.loads(run.stdout))
    assert not loaded & {"torch", "papermill", "pandas", "matplotlib", "datasets"}


def test_an_unknown_command_exits_with_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["docter"])
    assert exit_.value.code == 2


def test_the_benchmark_measures_both_loops():
    rates = throughput(student="resnet8", teacher="resnet8", batch_size=8, rounds=2, device="cpu")
    speeds, ratios = {"plain", "fp32", "ours", "plain runs", "our runs"}, {"fp32/plain", "ours/plain", "our runs/plain"}
    assert set(rates) == speeds | ratios | {"further student"}
    assert rates["ours/plain"] == pytest.approx(rates["ours"] / rates["plain"])
    assert all(rate > 0 for name, rate in rates.items() if name != "further student")
    assert -0.33 < rates["further student"] < 10  # four students take longer than none
