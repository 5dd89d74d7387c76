"""Two processes and one run: they end where one process does, agree to the bit, stop together, and go on after a kill.

This file is also what the processes execute, see its end.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TEACHER, TINY, example, student
from torch import nn

from kd_lib import parallel, plan, runs
from kd_lib.__main__ import main
from kd_lib.checkpoint import packed
from kd_lib.config import Run
from kd_lib.data.dataset import Shard
from kd_lib.methods import METHODS
from kd_lib.models import Staged
from kd_lib.session import start
from kd_lib.train import train

CPU = torch.device("cpu")
TESTS = Path(__file__).parent
TOLERANCE = 1e-5  # of weights and outputs as a part of the tensor's largest number, and of the log


class WithoutBatchNorm(nn.Module):
    def __init__(self, n_classes: int, in_channels: int, width: int):
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(in_channels, width, 3, stride=2), nn.GroupNorm(2, width), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2), nn.GroupNorm(2, 2 * width), nn.ReLU())
        self.head = nn.Linear(2 * width, n_classes)

    def forward(self, x):
        return self.head(self.block2(self.block1(x)).mean((2, 3)))


def network(n_classes: int, in_channels: int, width: int = 8) -> Staged:
    own = WithoutBatchNorm(n_classes, in_channels, width)
    return Staged(own, stages=["block1", "block2"], classifier="head")


wide_network = partial(network, width=16)

UNEVEN = {**TINY, "batch_size": 39, "precision": "fp32"}  # of 200: shares of 20 and 19, in the last batch of 3 and 2
WIDE = Run(network="test_parallel:wide_network", **UNEVEN)


def small(method: str, **changes) -> Run:
    return Run(
        **{"network": "test_parallel:network", "teacher": WIDE, "method": method, "seed": 1, **UNEVEN, **changes}
    )


PICTURES = {**UNEVEN, "data": "jpegs", "data_settings": {"n_train": 100, "n_test": 60, "crop": 24}}  # files, augmented
OF_PICTURES = small("kd", teacher=Run(network="test_parallel:wide_network", **PICTURES), **PICTURES)
EQUAL = [WIDE, small("kd"), small("pesf_kd"), small("ft_kd"), small("vid"), OF_PICTURES.teacher, OF_PICTURES]
WITH_BATCH_NORM = [student("fitnet"), student("ft_kd"), example("ft")]  # in the method, the teacher, a phase of setup
LONG = student("pesf_kd", epochs=6)


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def none_left():
    yield
    while STARTED:
        STARTED.pop().terminate()


def share(run: Run, world: int = 2) -> None:
    parallel.Several(Shard(0, world), CPU).check(run)


@pytest.mark.parametrize("method", list(METHODS))
def test_what_relates_samples_is_refused(method):
    run = example(method)
    if run.method_type(**run.method_settings).relates_samples:
        with pytest.raises(ValueError, match=f"'{method}'.*2 processes.*python -m kd_lib run {run.key}"):
            share(run)
    else:
        share(run)


def test_a_process_needs_two_samples_of_each_batch():
    share(student(batch_size=40), world=20)
    with pytest.raises(ValueError, match="batches of 40 one batch has 40, too few for 21 processes"):
        share(student(batch_size=40), world=21)
    with pytest.raises(ValueError, match="batches of 197 one batch has 3, too few for 2 processes"):
        share(student(batch_size=197))
    share(student(batch_size=199))  # the single sample left over is never trained on


def test_a_process_alone_needs_no_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv("WORLD_SIZE", "2")  # as some clusters set it for every process
    assert parallel.join("cpu") is parallel.ALONE
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match="a GPU of its own"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        parallel.join("cuda:1")
    with pytest.raises(RuntimeError, match="pip install"):
        parallel.join("cpu")
    assert main(["notebooks", "--scale", "smoke", "--only", "00"]) == 2


def test_two_processes_end_where_one_does(tmp_path, monkeypatch):
    """Measured: weights and outputs differ by up to 9e-7 of their tensor's largest number, the log by up to 6e-6 of each."""
    pytest.importorskip("accelerate", reason="several processes in a run need accelerate, of the extra gpu")
    processes = launch_two("together", store=tmp_path / "two")
    said = [json.loads(process.communicate(timeout=200)[0].splitlines()[-1]) for process in processes]
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "one"))
    for run in EQUAL:
        one = runs.ensure(run, device="cpu")
        assert_close(one, runs.Result(run, tmp_path / "two" / "done" / run.key, {}))
        assert said[0]["exchanged"][run.key] == sum(p.numel() for p in trained(run))
    for run in WITH_BATCH_NORM:
        first, second = (load_file(tmp_path / "two" / f"{run.key}-{rank}.safetensors") for rank in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert any(name.endswith("running_var") for name in first)
    assert said[0]["processes"] == 2
    assert said[0]["statistics"] == [0.5, 2.0]
    assert said[0]["gathered"] == said[1]["gathered"] == list(range(7))
    assert said[0]["refused"] == said[1]["refused"] == 1
    for rank in said:
        assert "process_of_mine" in rank["errors"]["a buffer of its own"]
        assert "student.network.head.bias" in rank["errors"]["no gradient"]
        assert "student.network.head.bias" in rank["errors"]["a gradient later"]
        assert "epoch 1, step 2: ce=nan" in rank["errors"]["not finite"]
    assert [rank["errors"]["of the first"] for rank in said] == [
        "KeyError: 'lost'",
        "FirstProcessFailed: KeyError: 'lost'",
    ]


def test_killed_and_resumed_to_the_bit(tmp_path):
    """Both processes killed in the middle of a run; `accelerate launch` goes on with it."""
    pytest.importorskip("accelerate", reason="several processes in a run need accelerate, of the extra gpu")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    processes = launch_two("twice", str(cut), store=whole)
    deadline = time.monotonic() + 200
    while not list((cut / "work" / LONG.key).glob("checkpoint-*")):
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.01)
    time.sleep(random.Random(0).uniform(0, 1))
    for process in processes:
        process.kill()
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2
    assert (whole / "done" / LONG.key).is_dir() and not (cut / "done" / LONG.key).exists()
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    resumed = launch([*command, "-m", "kd_lib", "run", LONG.key, "--device", "cpu"], cut)
    said = resumed.communicate(timeout=200)[0]
    assert resumed.returncode == 0, said
    assert said.count(LONG.label) == 1, "one process reports"
    for name in ("weights.safetensors", "outputs.safetensors"):
        first, second = (folder / "done" / LONG.key / name for folder in (whole, cut))
        assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()
    logs = [
        runs.Result(LONG, folder / "done" / LONG.key, {}).metrics.drop(columns="seconds") for folder in (whole, cut)
    ]
    assert logs[0].equals(logs[1])


def launch(command: list[str], store: Path, **environment: str) -> subprocess.Popen:
    store.mkdir(exist_ok=True)
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    own = {**os.environ, "KD_RUNS": str(store), "PYTHONPATH": paths, **environment}
    STARTED.append(subprocess.Popen([sys.executable, *command], env=own, stdout=subprocess.PIPE, text=True))
    return STARTED[-1]


def launch_two(*arguments: str, store: Path) -> list[subprocess.Popen]:
    """Two processes as a launcher starts them, but without one, which takes seconds and would have to be killed as well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = ["-m", "test_parallel", *arguments]
    return [launch(command, store, RANK=rank, LOCAL_RANK=rank, **where) for rank in ("0", "1")]


def trained(run: Run) -> list[nn.Parameter]:
    return [p for group in runs._open(run, "cpu").optimiser.param_groups for p in group["params"]]


def assert_close(one: runs.Result, two: runs.Result) -> None:
    for name in ("weights", "outputs"):
        expected, found = (load_file(result.folder / f"{name}.safetensors") for result in (one, two))
        assert expected.keys() == found.keys()
        for key in expected:
            scale = expected[key].abs().max().item()
            torch.testing.assert_close(found[key], expected[key], rtol=0, atol=TOLERANCE * scale, msg=f"{name} {key}")
    expected, found = (result.metrics.drop(columns="seconds") for result in (one, two))
    assert list(expected) == list(found)
    for name in expected:
        assert found[name].tolist() == pytest.approx(expected[name].tolist(), rel=TOLERANCE, abs=TOLERANCE), name


# What the launched processes do.


def together(folder: Path) -> None:
    """Train everything together, then fail in every way that must stop both."""
    group, said = parallel.join("cpu"), {"errors": {}}
    said["exchanged"] = {run.key: numbers_exchanged(run) for run in EQUAL}
    said["gathered"] = group.gather(torch.arange(7)[group.shard.of(7)], 7).tolist()
    norm = nn.BatchNorm1d(1)
    norm.running_mean += group.shard.rank
    norm.running_var += 2 * group.shard.rank
    group.settle(norm)
    said["statistics"] = [norm.running_mean.item(), norm.running_var.item()]
    said["processes"] = runs.load(WIDE).manifest["environment"]["processes"]
    plan.execute(WITH_BATCH_NORM[:1], device="cpu")
    for run in WITH_BATCH_NORM:
        session = runs._open(run, "cpu", group)
        list(train(session))
        save_file(packed(session.parts.state_dict()), folder / f"{run.key}-{group.shard.rank}.safetensors")
    said["refused"] = main(["run", student("sp", teacher=TEACHER.replace(seed=9)).model_dump_json(), "--device", "cpu"])
    for name, fail in FAILURES.items():
        try:
            fail(group)
        except (KeyError, RuntimeError, ArithmeticError) as error:
            said["errors"][name] = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(said))


def numbers_exchanged(run: Run) -> int:
    """How many numbers of gradients each step of a run sends: what it sends, less its loss terms and its right answers."""
    sizes, original = set(), torch.distributed.all_reduce

    def counted(tensor: torch.Tensor) -> None:
        sizes.add(tensor.numel())
        original(tensor)

    torch.distributed.all_reduce = counted
    metrics = runs.ensure(run, device="cpu").metrics
    torch.distributed.all_reduce = original
    (size,) = sizes
    return size - sum(name.startswith("loss_") for name in metrics) - 1


def begun(group: parallel.Group):
    return start(WIDE, runs.ensure(WIDE).data, device=CPU, precision="fp32", group=group)


def own_buffer(group: parallel.Group) -> None:
    session = begun(group)
    session.method.register_buffer("process_of_mine", torch.tensor(float(group.shard.rank)))
    next(train(session))


def no_gradient(group: parallel.Group, steps: tuple[int, ...] = ()) -> None:
    """The last layer's bias has none, in the second process alone or, in some steps, in both."""
    session, step = begun(group), iter(range(100))
    bias = session.student.classifier.bias

    def forward(out, *_rest):
        bias.requires_grad_(next(step) not in steps if steps else group.first)
        return {
            "ce": torch.nn.functional.linear(out.embedding, session.student.classifier.weight, bias).square().mean()
        }

    session.method.forward = forward
    next(train(session))


def not_finite(group: parallel.Group) -> None:
    """One process's loss is, in the second step."""
    session, step = begun(group), iter(range(100))

    def forward(out, *_rest):
        bad = next(step) == 1 and not group.first
        return {"ce": out.logits.square().mean() * (float("nan") if bad else 1.0)}

    session.method.forward = forward
    next(train(session))


FAILURES = {
    "a buffer of its own": own_buffer,
    "no gradient": no_gradient,
    "a gradient later": partial(no_gradient, steps=(0, 1)),
    "not finite": not_finite,
    "of the first": lambda group: group.once(lambda: {}["lost"]),
}


def twice(whole: Path, cut: Path) -> None:
    """A whole run in one store, then the same again in another, slowly, to be killed."""
    group, runs.CHECKPOINT_SECONDS = parallel.join("cpu"), 0.0
    runs.ensure(LONG, device="cpu")
    group.once(lambda: shutil.copytree(whole / "done" / TEACHER.key, cut / "done" / TEACHER.key))
    group.once(lambda: shutil.copytree(whole / "known", cut / "known"))
    os.environ["KD_RUNS"] = str(cut)
    runs.ensure(LONG, device="cpu", on_epoch=lambda _row: time.sleep(0.5))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"together": together, "twice": twice}[sys.argv[1]](*map(Path, [os.environ["KD_RUNS"], *sys.argv[2:]]))
    parallel.leave()
