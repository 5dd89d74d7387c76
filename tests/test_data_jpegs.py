"""jpegs: what its made-up pictures are, and a run from JPEG files to its resumed end."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_imagenet
from PIL import Image

from kd_lib import config, data, runs
from kd_lib.data import jpegs
from kd_lib.data.jpegs import Jpegs
from kd_lib.train import predict

store = toy_imagenet.store  # for every test of this file

SMALL = {"n_train": 40, "n_test": 20, "crop": 16}


def test_jpegs_are_real_files_in_imagenets_layout():
    made = data.load("jpegs", **SMALL)
    assert made.class_names == tuple("0123456789")
    assert made.train_y.bincount().tolist() == [4] * 10 and made.test_y.bincount().tolist() == [2] * 10
    sizes = set()
    for position in (*range(40), 55):
        path = Path(made.listing.called(position))
        with Image.open(path) as image:
            assert image.format == "JPEG" and image.mode == "RGB"
            sizes.add(image.size)
    assert path.parts[-3] == "val" and path.suffix == ".JPEG"
    assert len(sizes) > 30 and all(w != h and 64 <= min(w, h) <= max(w, h) <= 121 for w, h in sizes)
    assert data.load("jpegs", seed=1, **SMALL).fingerprint != made.fingerprint
    assert data.fingerprint("jpegs", **{**SMALL, "crop": 24}) != made.fingerprint


def test_jpegs_are_of_one_digit_and_do_not_share_source_digits(monkeypatch):
    """Drawn with ink that says which source digit it is, no test picture shows a training digit."""
    seen = {}
    monkeypatch.setattr(jpegs, "draw", lambda digits, seed: seen.setdefault(seed[1:], digits))
    monkeypatch.setattr(jpegs, "_encoded", lambda digits: b"")
    Jpegs(n_train=20, n_test=20)._files()
    train, test = ({digit.tobytes() for i in range(20) for digit in seen[part, i]} for part in (1, 2))
    assert train and test and len(train & test) <= 2  # scikit-learn holds a few digits twice
    for i in range(10):
        assert np.array_equal(seen[1, i], seen[1, i + 10])
        assert not np.array_equal(seen[1, i], seen[1, (i + 1) % 10])


def test_jpegs_have_the_fingerprint_of_their_settings_whatever_the_encoder(monkeypatch, tmp_path):
    first = data.load("jpegs", **SMALL)
    monkeypatch.setattr(jpegs, "QUALITY", 50)
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "elsewhere"))
    other = data.load("jpegs", **SMALL)
    assert other.listing.encoded(0) != first.listing.encoded(0)
    assert other.fingerprint == first.fingerprint == data.fingerprint("jpegs", **SMALL)


def test_a_damaged_jpeg_is_set_aside_and_made_again():
    made = data.load("jpegs", **SMALL)
    path = Path(made.listing.called(7))
    good = path.read_bytes()
    path.write_bytes(bytes([*good[:-1], good[-1] ^ 1]))
    data._load.cache_clear()
    with pytest.warns(UserWarning, match=f"{path.name}.*quarantine"):
        assert data.load("jpegs", **SMALL).listing.encoded(7) == good


def test_protocols_of_the_new_sets():
    assert config.protocol("imagenet")["milestones"] == (0.3, 0.6, 0.9)
    assert config.protocol("pictures:/any", epochs=3)["batch_size"] == 256
    assert config.protocol("jpegs")["schedule"] == "one_cycle"
    run = config.Run(network="resnet8-w2", data_settings=SMALL, **config.protocol("jpegs"))
    assert run.replace(data_settings={**SMALL, "crop": 24}).key != run.key


def test_a_student_learns_from_jpegs_and_a_killed_run_ends_with_the_same_bits(monkeypatch, tmp_path):
    """Whole without processes that decode, killed and resumed with one."""
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
    common = {"data_settings": SMALL, **config.protocol("jpegs", epochs=2, batch_size=16)}
    teacher = config.Run(network="resnet8-w2", **common)
    run = config.Run(network="resnet8-w2", method="pesf_kd", teacher=teacher, seed=1, **common)
    whole = runs.ensure(run, device="cpu")
    assert np.isfinite(whole.metrics[["loss", "accuracy", "gap", "kl"]].to_numpy()).all()
    assert len(whole.outputs.logits) == len(whole.y) == 20
    out = predict(whole.network(), whole.data, "test", precision=whole.manifest["environment"]["precision"])
    assert torch.equal(out.logits, whole.outputs.logits), "what was stored is the trained network"
    shutil.copytree(whole.folder.parent / teacher.key, tmp_path / "again" / "done" / teacher.key)
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "again"))
    monkeypatch.setenv("KD_WORKERS", "1")

    def killed(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.ensure(run, device="cpu", on_epoch=killed)
    rest = []
    again = runs.ensure(run, device="cpu", on_epoch=lambda row: rest.append(row["epoch"]))
    assert rest == [2]
    for name in ("weights.safetensors", "outputs.safetensors"):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
