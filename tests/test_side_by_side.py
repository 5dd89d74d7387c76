"""Students of one frozen teacher, trained side by side: the same bits as alone, one teacher pass a batch."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import TEACHER, student

from kd_lib import plan, runs
from kd_lib.config import Run
from kd_lib.session import FrozenNetwork, NonFiniteLoss

METHODS = ("at", "sp", "ofd", "vid")  # all of them need the teacher's maps, so its answers cannot be remembered


@pytest.fixture
def augmented(tmp_path):
    """A small folder of pictures that are cropped and mirrored, and its runs."""
    draw = np.random.default_rng(0)
    for split, n in (("train", 12), ("test", 4)):
        for name in ("a", "b", "c"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    common = {
        "data": f"folder:{tmp_path}",
        "data_settings": {"size": 16, "augment": "crop_flip"},
        "epochs": 2,
        "batch_size": 16,
    }
    teacher = Run(network="resnet8-w4", **common)
    return lambda method, **changes: Run(
        network="resnet8-w2", method=method, teacher=teacher, **{**common, "seed": 1, **changes}
    )


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "store"))


def bits(result) -> dict[str, torch.Tensor]:
    files = (result.folder / f"{name}.safetensors" for name in ("weights", "outputs"))
    return {f"{file.stem}/{key}": tensor for file in files for key, tensor in load_file(file).items()}


def check_same(alone, together) -> None:
    for one, other in zip(alone, together, strict=True):
        mine, theirs = bits(one), bits(other)
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), (one.run.label, name)
        logs = [result.metrics.drop(columns="seconds") for result in (one, other)]
        pd.testing.assert_frame_equal(*logs, check_exact=True)


def train_both_ways(wanted, monkeypatch, tmp_path):
    alone = [runs.ensure(run) for run in wanted]
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "another store"))
    return alone, runs.ensure_side_by_side(wanted)


def test_feature_methods_end_with_the_bits_they_have_alone(monkeypatch, tmp_path):
    check_same(*train_both_ways([student(method) for method in METHODS], monkeypatch, tmp_path))


def test_augmented_images_adapters_phases_and_other_lengths(augmented, monkeypatch, tmp_path):
    wanted = [
        augmented("kd"),
        augmented("pesf_kd"),
        augmented("pesf_kd_v1", epochs=3),
        augmented("ft", settings={"setup_epochs": 1}),
        augmented("crd", settings={"negatives": 8}),
        augmented("kd", settings={"until_epoch": 1}),
    ]
    check_same(*train_both_ways(wanted, monkeypatch, tmp_path))


def test_the_teacher_is_asked_once_a_batch(augmented, monkeypatch):
    asked = []
    ask = FrozenNetwork._ask
    monkeypatch.setattr(FrozenNetwork, "_ask", lambda self, batch: asked.append(1) or ask(self, batch))
    runs.ensure(augmented("kd", seed=5))
    lone = len(asked)
    assert lone == 2 * 3  # 36 images in batches of 16, two epochs
    runs.ensure_side_by_side([augmented("kd"), augmented("pesf_kd"), augmented("at")])
    assert len(asked) == 2 * lone


def test_one_that_was_stopped_earlier_catches_up(augmented, monkeypatch, tmp_path):
    wanted = [augmented("kd"), augmented("sp", epochs=3)]
    alone = [runs.ensure(run) for run in wanted]
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "another store"))
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)

    class Stop(Exception):
        pass

    def stop(row):
        raise Stop

    with pytest.raises(Stop):
        runs.ensure(wanted[1], on_epoch=stop)
    check_same(alone, runs.ensure_side_by_side(wanted))


def test_one_that_diverges_does_not_stop_the_others(augmented):
    wanted = [augmented("kd", lr=1e30), augmented("kd", epochs=3)]
    with pytest.raises(NonFiniteLoss):
        runs.ensure_side_by_side(wanted)
    assert runs.find(wanted[0]) is None
    assert runs.find(wanted[1]).metrics.epoch.tolist() == [1, 2, 3]
    with pytest.raises(plan.RunFailed, match="1 of 1 runs"):
        plan.execute(wanted, jobs=1)


def units(wanted, free):
    return [[step.run.method for step in unit] for unit in plan._units(plan.plan(wanted)[1:], free)]


def test_what_the_plan_puts_together(augmented):
    runs.ensure(augmented("kd").teacher)
    four = [augmented("kd"), augmented("at"), augmented("pesf_kd"), augmented("sp")]
    assert units(four, 1) == [["kd", "at", "pesf_kd", "sp"]]
    assert units(four, 2) == [["kd", "pesf_kd"], ["at", "sp"]]  # no processor idle
    assert sorted(map(len, units(four, 9))) == [1, 1, 1, 1]
    apart = [
        augmented("kd"),
        augmented("ft_kd"),
        augmented("sskd"),
        augmented("kd", seed=2),
        augmented("kd", batch_size=8),
    ]
    assert sorted(map(len, units(apart, 1))) == [1] * 5
    assert len(units([augmented("kd", epochs=2 + i) for i in range(plan.SIDE_BY_SIDE + 1)], 1)) == 2


def test_remembered_answers_are_not_shared():
    runs.ensure(TEACHER)
    wanted = [student("kd"), student("atkd"), student("at"), student("sp")]
    assert units(wanted, 1) == [["kd"], ["atkd"], ["at", "sp"]]
