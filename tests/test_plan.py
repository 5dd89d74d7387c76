"""Many runs: order, state, estimates, parallel training, and what happens when one fails or dies."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from tiny import TEACHER, student, text_student

from kd_lib import plan, runs
from kd_lib.estimate import seconds_left, work_units
from kd_lib.plan import RunFailed, describe, ensure, execute, flatten
from kd_lib.progress import Progress, clock


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(tmp_path))


def test_runs_are_found_in_any_nesting():
    a, b = student("kd"), student("atkd")
    assert list(flatten({"x": [a, (b,)], "y": {"z": a}})) == [a, b, a]


def test_a_plan_holds_every_run_once_and_teachers_first():
    wanted = [student("kd"), student("kd", settings={"tau": 4.0}), student("ft_kd"), TEACHER]
    steps = plan.plan(wanted)
    assert [s.key for s in steps] == [TEACHER.key, student("kd").key, student("ft_kd").key]
    assert all(s.state == "new" and s.seconds > 0 and s.megabytes > 0 for s in steps)


def test_estimates_follow_the_work():
    seconds = {
        name: work_units(run)
        for name, run in {
            "kd": student("kd"),
            "long": student("kd", epochs=4),
            "ft": student("ft_kd"),
            "teacher": TEACHER,
            "friendly": TEACHER.replace(method="sftn", settings={"student": TEACHER.network}),
        }.items()
    }
    assert seconds["long"] == pytest.approx(2 * seconds["kd"])
    assert seconds["ft"] > seconds["kd"] + 0.5 * seconds["teacher"]
    assert 1.5 * seconds["teacher"] < seconds["friendly"] < 2 * seconds["teacher"]


def test_estimates_follow_what_runs_of_the_same_data_took_here(tmp_path):
    wanted = [student("kd"), text_student()]
    before = {step.key: step.seconds for step in plan.plan(wanted)}
    assert before[wanted[0].key] == work_units(wanted[0])
    runs.ensure(TEACHER)
    log = tmp_path / "done" / TEACHER.key / "metrics.jsonl"
    rows = [json.loads(line) | {"seconds": 3 * work_units(TEACHER) / 2} for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))  # two epochs: three times as slow as expected
    after = {step.key: step.seconds for step in plan.plan(wanted)}
    assert [after[run.key] / before[run.key] for run in wanted] == pytest.approx([3, 3])
    assert plan.plan([text_student()])[-1].seconds == before[wanted[1].key], "nobody asked for images"


def test_estimates_of_a_resumed_run_count_the_epochs_that_are_left(monkeypatch):
    run = student("kd", epochs=4)
    new = plan.plan([run])[-1]

    def stop(row):
        if row["epoch"] == 3:
            raise InterruptedError

    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(InterruptedError):
        runs.ensure(run, on_epoch=stop)
    step = plan.plan([TEACHER.replace(seed=9), run])[-1]
    assert (step.state, step.trained) == ("resumable", 0.75)
    pace = plan.plan([run.replace(seed=9)])[-1].seconds / new.seconds
    assert step.seconds == pytest.approx(new.seconds * pace / 4)
    step = dataclasses.replace(step, seconds=600.0)
    line = plan._line([step], [], [step], time.monotonic(), 1)
    assert line.endswith("seed 1 75%; about 10 min 00 s left"), "nothing was trained by this call yet"
    with open(runs.store_root() / "work" / run.key / "metrics.jsonl", "a") as log:
        log.write("{}\n")
    assert plan._line([step], [], [step], time.monotonic() - 60, 1).endswith("100%; about 0 s left")


@pytest.mark.parametrize(
    ("share", "elapsed", "left"), [(0.0, 0.0, 100.0), (0.5, 200.0, 0.5 * (50.0 + 200.0)), (1.0, 70.0, 0.0)]
)
def test_time_left_goes_from_what_was_expected_to_what_was_seen(share, elapsed, left):
    assert seconds_left(100.0, share, elapsed) == left


def test_results_come_in_the_order_asked_for_and_then_from_the_store():
    wanted = [student("pesf_kd"), student("kd"), student("pesf_kd")]
    results = ensure(wanted, jobs=2)
    assert [r.run.key for r in results] == [run.key for run in wanted]
    steps = plan.plan(wanted)
    assert {s.state for s in steps} == {"done"}
    assert "3 runs, 3 in the store; to train: 0" in describe(steps)
    began = time.monotonic()
    execute(wanted)
    assert time.monotonic() - began < 1, "nothing is missing, so no process is started"


def test_parallel_processes_give_the_bits_of_a_single_one(tmp_path, monkeypatch):
    execute([student("kd")], jobs=2)
    parallel = runs.load(student("kd")).manifest["files"]
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "other"))
    assert runs.ensure(student("kd")).manifest["files"]["weights.safetensors"] == parallel["weights.safetensors"]


def test_a_failed_run_does_not_stop_the_others():
    bad = student("kd", lr=1e30, schedule="step")
    child = student("kd", teacher=TEACHER.replace(lr=1e30, schedule="step"))
    with pytest.raises(RunFailed) as failure:
        execute([bad, child, student("atkd")], jobs=2)
    text = str(failure.value)
    assert "NonFiniteLoss" in text
    assert bad.label in text
    assert f"not started, because {child.teacher.label} did not finish" in text
    assert runs.find(student("atkd")) is not None


def test_any_executor_can_do_the_training():
    with ThreadPoolExecutor(1) as executor:
        execute([student("kd")], executor=executor)
    assert runs.find(student("kd")) is not None


def test_a_killed_worker_is_reported_and_the_next_call_goes_on():
    run = student("kd", epochs=400)

    def kill_a_worker():
        me, deadline = psutil.Process(), time.monotonic() + 60
        while not (runs.store_root() / "work" / run.key / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        workers = [p for p in me.children() if "spawn_main" in " ".join(p.cmdline())]
        workers[-1].kill()

    execute([TEACHER])
    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    with pytest.raises(RunFailed, match="a training process died"):
        execute([run], jobs=1)
    killer.join()
    assert (runs.store_root() / "work" / run.key).exists()


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to the process", "to its group, as a terminal does"])
def test_ctrl_c_leaves_no_process_behind(tmp_path, send):
    run = student("kd", epochs=4000)
    script = "import signal, sys; from kd_lib import plan; from kd_lib.config import Run\n"
    # a shell that started the tests in the background told them to ignore it
    script += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script += "if __name__ == '__main__': plan.execute([Run.model_validate_json(sys.argv[1])], jobs=2)"
    path = tmp_path / "main.py"
    path.write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(path), run.model_dump_json()], stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "work" / run.key / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    send(process.pid, signal.SIGINT)
    assert process.wait(timeout=20) != 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_workers_leave_when_their_parent_is_killed(tmp_path):
    run = student("kd", epochs=4000)
    script = "import sys; from kd_lib import plan; from kd_lib.config import Run\n"
    script += "if __name__ == '__main__': plan.execute([Run.model_validate_json(sys.argv[1])], jobs=2)"
    path = tmp_path / "main.py"
    path.write_text(script)
    process = subprocess.Popen([sys.executable, str(path), run.model_dump_json()], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "work" / run.key / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []


def test_times_for_people():
    assert [clock(s) for s in (4.2, 200, 7500)] == ["4 s", "3 min 20 s", "2 h 05 min"]
    assert [clock(s) for s in (59.7, 119.6, 3599.8)] == ["1 min 00 s", "2 min 00 s", "1 h 00 min"]


def test_progress_is_sparse_where_nobody_watches(capsys, monkeypatch):
    monkeypatch.setenv("KD_PROGRESS", "sparse")
    progress = Progress(every=3600)
    for i in range(10):
        progress.show(f"line {i}", last=i == 9)
    assert capsys.readouterr().err == "line 0\nline 9\n"
