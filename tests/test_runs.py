"""The run store: trained once, verified always, never damaged silently."""

import json
import multiprocessing
import time

import pytest
import torch
from safetensors.torch import load_file
from tiny import TEACHER, student

from kd_lib import runs, store
from kd_lib.config import Run
from kd_lib.runs import NotTrained, ensure, find, load, recall


@pytest.fixture(scope="module", autouse=True)
def own_store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_RUNS", str(tmp_path_factory.mktemp("store")))
        yield


def test_a_run_is_trained_once_and_then_loaded():
    seen = []
    first = ensure(student("pesf_kd"), on_epoch=seen.append)
    assert [row["epoch"] for row in seen] == [1, 2]
    again = ensure(student("pesf_kd"), on_epoch=seen.append)
    assert len(seen) == 2
    assert again.manifest == first.manifest
    names = {p.name for p in first.folder.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "weights.safetensors", "outputs.safetensors", "manifest.json"}
    assert find(TEACHER) is not None, "its teacher was trained on the way"
    assert not (runs.store_root() / "work" / first.run.key).exists()


def test_results_say_what_the_run_was_and_did():
    result = ensure(student("pesf_kd"))
    saved = Run.model_validate_json((result.folder / "config.json").read_text())
    assert saved.key == result.run.key
    assert result.accuracy == result.metrics["accuracy"].iloc[-1]
    assert result.best_accuracy == result.metrics["accuracy"].max()
    assert result.outputs.logits.shape == (100, 100)
    assert not torch.equal(result.teacher_outputs.logits, result.teacher.outputs.logits), "the adapter moved"
    frozen = ensure(student("kd"))
    assert torch.equal(frozen.teacher_outputs.logits, frozen.teacher.outputs.logits)
    assert result.manifest["environment"]["threads"] == torch.get_num_threads()


def test_the_stored_network_gives_the_stored_outputs():
    from kd_lib.train import predict

    for run in (TEACHER, student("ft_kd")):
        result = ensure(run)
        precision = result.manifest["environment"]["precision"]
        out = predict(result.network(), result.data, "test", precision=precision)
        assert torch.equal(out.logits, result.outputs.logits)


def test_load_never_trains_and_names_the_command():
    run = student("atkd", seed=99)
    with pytest.raises(NotTrained, match=f"python -m kd_lib run {run.key}"):
        load(run)
    assert recall(run.key[:8]).key == run.key
    with pytest.raises(NotTrained, match="0 descriptions"):
        recall("zz")


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "outputs.safetensors", "metrics.jsonl", "config.json", "manifest.json"]
)
def test_damage_is_named_set_aside_and_made_again(name):
    run = student("kd", seed=5)
    before = ensure(run).manifest
    path = ensure(run).folder / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.warns(UserWarning, match=name):
        after = ensure(run).manifest
    for same in ("weights.safetensors", "outputs.safetensors", "config.json"):
        assert after["files"][same] == before["files"][same]
    assert any((runs.store_root() / "quarantine").glob(f"{run.key}-*"))


def test_a_damaged_checkpoint_is_not_used(monkeypatch):
    run = student("kd", seed=6, epochs=4)
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)

    class Stop(Exception):
        pass

    def stop(row):
        if row["epoch"] == 3:
            raise Stop

    with pytest.raises(Stop):
        ensure(run, on_epoch=stop)
    (checkpoint,) = (runs.store_root() / "work" / run.key).glob("checkpoint-*")
    raw = bytearray(checkpoint.read_bytes())
    raw[-1] ^= 1
    checkpoint.write_bytes(raw)
    epochs = []
    ensure(run, on_epoch=lambda row: epochs.append(row["epoch"]))
    assert epochs == [1, 2, 3, 4]


@pytest.mark.parametrize("method", ["kd", "pesf_kd", "ft_kd"])
def test_a_resumed_run_is_bit_identical(method, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
    run = student(method, seed=7, epochs=3)
    whole = ensure(run)
    tensors = {name: load_file(whole.folder / f"{name}.safetensors") for name in ("weights", "outputs")}
    log = whole.metrics.drop(columns="seconds")
    store.publish(tmp_path / "w", tmp_path / "kept", {})
    whole.folder.rename(tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(row):
        raise Stop

    for _ in range(2):  # one epoch at a time
        with pytest.raises(Stop):
            ensure(run, on_epoch=stop)
    resumed = ensure(run)
    for name, expected in tensors.items():
        found = load_file(resumed.folder / f"{name}.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[k], expected[k]) for k in expected), name
    assert resumed.metrics.drop(columns="seconds").equals(log)


def _ensure_in_process(description, queue):
    trained = []
    ensure(Run.model_validate_json(description), on_epoch=trained.append)
    queue.put(len(trained))


def test_two_processes_that_want_one_run_train_it_once():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    description = student("kd", seed=8, epochs=3).model_dump_json()
    workers = [context.Process(target=_ensure_in_process, args=(description, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    counts = sorted(queue.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    assert counts == [0, 3]


def test_a_teachers_answers_are_computed_once_for_all_its_students():
    ensure(student("kd", seed=1))
    folder = next((runs.store_root() / "memory").glob(f"{TEACHER.key}-*"))
    made = (folder / "outputs.safetensors").stat().st_mtime_ns
    time.sleep(0.01)
    ensure(student("kd", seed=21))
    assert (folder / "outputs.safetensors").stat().st_mtime_ns == made
    assert json.loads((folder / "manifest.json").read_text())["files"]
