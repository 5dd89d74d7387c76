"""Real kills: `kill -9` at random moments, then resumed to the bit."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import TEACHER, student

KILLS = int(os.environ.get("KD_TEST_KILLS", "3"))


def train(run, folder: Path) -> subprocess.Popen:
    script = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from kd_lib import runs; from kd_lib.config import Run\n"
        "runs.CHECKPOINT_SECONDS = 0.0\n"
        "print('ready', flush=True)\n"
        "runs.ensure(Run.model_validate_json(sys.argv[1]), device='cpu')\n"
    )
    environment = {**os.environ, "KD_RUNS": str(folder)}
    command = [sys.executable, "-c", script, run.model_dump_json()]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def digests(folder: Path, run) -> dict[str, str]:
    done = folder / "done" / run.key
    return {
        name: hashlib.sha256((done / name).read_bytes()).hexdigest()
        for name in ("weights.safetensors", "outputs.safetensors")
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A folder with the whole run, and the seconds that its training took."""
    folder = tmp_path_factory.mktemp("whole")
    size = {"data_settings": {"n_train": 400, "n_test": 100}}
    teacher = TEACHER.replace(**size)
    run = student("pesf_kd", epochs=40, teacher=teacher, **size)
    assert train(teacher, folder).wait() == 0
    process = train(run, folder)
    process.stdout.readline()
    began = time.monotonic()
    assert process.wait() == 0
    return run, folder, time.monotonic() - began


def test_killed_at_any_moment_and_resumed_to_the_bit(uninterrupted, tmp_path):
    run, whole, seconds = uninterrupted
    expected, rng = digests(whole, run), random.Random(0)
    killed = 0
    for attempt in range(KILLS):
        folder = tmp_path / str(attempt)
        process = train(run, folder)
        process.stdout.readline()
        time.sleep(rng.uniform(0.05, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert not (folder / "done" / run.key).exists() or digests(folder, run) == expected
        assert train(run, folder).wait() == 0
        assert digests(folder, run) == expected
        assert not (folder / "work" / run.key).exists()
    assert killed, "every process had finished before its kill: the run is too short for this machine"
    print(f"\n{killed} of {KILLS} killed during the run; all {KILLS} bit-identical after resuming")
