"""CIFAR-100 and SVHN: every layout gives the same data; absent, partial or forged files are refused with a reason."""

import functools
import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from kd_lib import data
from kd_lib.data.cifar100 import Cifar100, superclass_mask
from kd_lib.data.svhn import Svhn

LAYOUTS = {
    "cifar100": ("hub", "torchvision", "arrays"),
    "svhn": ("hub", "torchvision", "torchvision in svhn"),
}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KD_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("KD_DOWNLOAD", raising=False)
    for source in (Cifar100, Svhn):
        monkeypatch.setattr(source, "counts", {"train": 200, "test": 100})
    data._load.cache_clear()
    yield
    data._load.cache_clear()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@functools.cache
def _images(split, n_classes):
    """Made-up pixels [N, 32, 32, 3] with every class in them."""
    n = {"train": 200, "test": 100}[split]
    rng = np.random.default_rng(n + n_classes)
    return rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.permutation(np.arange(n) % n_classes)


def _write_hub(folder, source, *, files=1, names=None):
    """Parquet files with PNGs, and the names of the classes where the hub keeps them."""
    pictures, labels = source.columns
    folder = folder / source.hub_id / source.hub_folder
    folder.mkdir(parents=True)
    feature = {"_type": "ClassLabel", "names": list(names or source.class_names)}
    metadata = {"huggingface": json.dumps({"info": {"features": {pictures: {"_type": "Image"}, labels: feature}}})}
    for split in ("train", "test"):
        x, y = _images(split, len(source.class_names))
        for k, part in enumerate(np.array_split(np.arange(len(x)), files)):
            cells = []
            for image in x[part]:
                png = io.BytesIO()
                Image.fromarray(image).save(png, "PNG")
                cells.append({"bytes": png.getvalue(), "path": None})
            columns = {
                pictures: pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
                labels: y[part],
            }
            table = pa.table(columns).replace_schema_metadata(metadata)
            pq.write_table(table, folder / f"{split}-{k:05d}-of-{files:05d}.parquet")


class _Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did, which is how the published files were written."""

    dispatch = pickle._Pickler.dispatch | {bytes: lambda self, b: self.write(b"T" + len(b).to_bytes(4, "little") + b)}


def _dump(value, path):
    out = io.BytesIO()
    _Python2Pickler(out, protocol=2).dump(value)
    path.write_bytes(out.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


def _write_torchvision(folder, source):
    if source is Svhn:
        folder.mkdir(exist_ok=True)
        for split in ("train", "test"):
            x, y = _images(split, 10)
            savemat(
                folder / f"{split}_32x32.mat", {"X": x.transpose(1, 2, 3, 0), "y": np.where(y == 0, 10, y)[:, None]}
            )
        return
    folder = folder / "cifar-100-python"
    folder.mkdir()
    for split in ("train", "test"):
        x, y = _images(split, 100)
        rows = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(len(x), -1)
        _dump({"data": rows, "fine_labels": y.tolist(), "coarse_labels": [0] * len(y)}, folder / split)
    _dump({"fine_label_names": list(source.class_names), "coarse_label_names": ["any"]}, folder / "meta")


def _write(folder, name, layout):
    source = data.DATASETS[name]
    if layout == "hub":
        _write_hub(folder, source, files=2)
    elif layout == "arrays":
        arrays = {f"{s}_{k}": a for s in ("train", "test") for k, a in zip("xy", _images(s, 100), strict=True)}
        np.savez(folder / "cifar100.npz", **arrays | {"train_y": arrays["train_y"].astype(np.uint8)})
    else:
        _write_torchvision(folder / "svhn" if layout.endswith("in svhn") else folder, source)


@pytest.mark.parametrize(("name", "layout"), [(name, layout) for name, all_ in LAYOUTS.items() for layout in all_])
def test_every_layout_gives_the_same_pixels_and_labels(folder, name, layout):
    _write(folder, name, layout)
    loaded = data.load(name)
    for x, y, split in ((loaded.train_x, loaded.train_y, "train"), (loaded.test_x, loaded.test_y, "test")):
        expected_x, expected_y = _images(split, loaded.n_classes)
        known = {
            pixels.transpose(2, 0, 1).tobytes(): label for pixels, label in zip(expected_x, expected_y, strict=True)
        }
        assert {pixels.numpy().tobytes(): label for pixels, label in zip(x, y.tolist(), strict=True)} == known
        assert len(x) == len(expected_x)
    assert loaded.class_names == data.DATASETS[name].class_names


@pytest.mark.parametrize("name", LAYOUTS)
def test_fingerprint_is_the_same_whichever_layout(tmp_path, monkeypatch, name):
    values = set()
    for k, layout in enumerate(LAYOUTS[name]):
        folder = tmp_path / f"data{k}"
        folder.mkdir()
        _write(folder, name, layout)
        monkeypatch.setenv("KD_DATA", str(folder))
        monkeypatch.setenv("KD_RUNS", str(tmp_path / f"runs{k}"))
        values.add(data.fingerprint(name))
    assert len(values) == 1


def test_fingerprint_is_the_same_whatever_the_order_of_the_rows(tmp_path, monkeypatch, folder):
    """Copies of CIFAR-100 differ in it; nine pictures of the real one occur twice with two labels."""
    arrays = {f"{s}_{k}": a.copy() for s in ("train", "test") for k, a in zip("xy", _images(s, 100), strict=True)}
    arrays["train_x"][1] = arrays["train_x"][0]
    assert arrays["train_y"][0] != arrays["train_y"][1]
    values = set()
    for seed in range(3):
        for split in ("train", "test"):
            order = np.random.default_rng(seed).permutation(len(arrays[f"{split}_x"]))
            arrays |= {f"{split}_{k}": arrays[f"{split}_{k}"][order] for k in "xy"}
        np.savez(folder / "cifar100.npz", **arrays)
        monkeypatch.setenv("KD_RUNS", str(tmp_path / f"runs{seed}"))
        values.add(data.fingerprint("cifar100"))
    assert len(values) == 1


def test_classes_are_mixed(folder):
    _write(folder, "svhn", "torchvision")
    assert len(data.load("svhn").test_y[:50].unique()) == 10


def test_superclasses_by_hand():
    mask, names = superclass_mask(), Cifar100.class_names
    assert mask.dtype == torch.bool
    assert [names[c] for c in mask[names.index("otter")].nonzero()] == ["beaver", "dolphin", "seal", "whale"]
    assert not mask[names.index("sunflower"), names.index("oak_tree")]
    assert mask.sum(1).tolist() == [4] * 100
    assert torch.equal(mask, mask.T)
    joined = mask | torch.eye(100, dtype=torch.bool)
    assert len(joined.unique(dim=0)) == 20, "five classes each, no class in two"


def test_protocols(folder):
    _write(folder, "cifar100", "arrays")
    _write(folder, "svhn", "torchvision")
    cifar, svhn = data.load("cifar100"), data.load("svhn")
    assert (cifar.mean, cifar.std) == ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    assert (cifar.augment, svhn.augment) == ("crop_flip", "crop")
    pixels = svhn.train_x.double() / 255
    assert svhn.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert svhn.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())


def test_once_decoded_the_files_are_not_needed(folder, monkeypatch):
    _write(folder, "cifar100", "arrays")
    made = data.load("cifar100")
    data._load.cache_clear()
    monkeypatch.delenv("KD_DATA")
    assert torch.equal(data.load("cifar100").train_x, made.train_x)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "cifar100",
            ["uoft-cs/cifar100/cifar100/{train,test}-*.parquet", "cifar-100-python/", "cifar100.npz", "135 MB"],
        ),
        ("svhn", ["ufldl-stanford/svhn/cropped_digits/{train,test}-*.parquet", "{train,test}_32x32.mat", "246 MB"]),
    ],
)
def test_absent_data_say_what_to_fetch(monkeypatch, folder, name, facts):
    with pytest.raises(data.DataNotFound) as caught:
        data.load(name)
    message = str(caught.value)
    for fact in [*facts, data.DATASETS[name].hub_id, "Licence: ", "KD_DOWNLOAD=1", f"KD_DATA is {folder}"]:
        assert fact in message
    monkeypatch.setenv("KD_DATA", str(folder / "nowhere"))
    with pytest.raises(data.DataNotFound, match="nowhere, which is no folder"):
        data.fingerprint(name)
    monkeypatch.delenv("KD_DATA")
    with pytest.raises(data.DataNotFound, match="KD_DATA is not set"):
        data.load(name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub, played by a folder; a list of what was asked of it."""
    datasets = pytest.importorskip("datasets")
    real, asked = datasets.load_dataset, []

    def load_dataset(hub_id, data_files):
        asked.append((hub_id, data_files))
        return real(str(tmp_path / "hub" / hub_id), data_files=data_files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize("name", LAYOUTS)
def test_download_needs_permission_and_gives_the_same_data(tmp_path, monkeypatch, caplog, folder, hub, name):
    source = data.DATASETS[name]
    _write_hub(tmp_path / "hub", source)
    with pytest.raises(data.DataNotFound):
        data.load(name)
    monkeypatch.setenv("KD_DOWNLOAD", "0")
    with pytest.raises(data.DataNotFound):
        data.load(name)
    assert hub == []
    monkeypatch.setenv("KD_DOWNLOAD", "1")
    downloaded = data.load(name)
    assert [hub_id for hub_id, _ in hub] == [source.hub_id]
    assert sorted(hub[0][1]) == ["test", "train"]  # and not SVHN's "extra"
    assert source.hub_id in caplog.text
    assert source.size in caplog.text
    assert source.licence in caplog.text
    _write(folder, name, "torchvision")
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "other"))
    assert data.fingerprint(name) == downloaded.fingerprint
    assert len(hub) == 1  # files that are there are read, not downloaded


def test_a_failed_download_gives_the_reason_and_the_instructions(monkeypatch, folder):
    datasets = pytest.importorskip("datasets")

    def fail(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setenv("KD_DOWNLOAD", "1")
    with pytest.raises(data.DataNotFound, match=r"(?s)The download failed: no route.*cifar-100-python"):
        data.load("cifar100")


def test_permission_has_two_values(monkeypatch, folder):
    monkeypatch.setenv("KD_DOWNLOAD", "yes")
    with pytest.raises(ValueError, match=r"KD_DOWNLOAD: 'yes'.*Allowed: 0, 1"):
        data.load("cifar100")


def test_a_missing_file_is_not_passed_over(folder):
    _write(folder, "cifar100", "hub")
    _write(folder, "cifar100", "arrays")  # complete, but further down the list
    (folder / "uoft-cs/cifar100/cifar100/train-00001-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 files train-\*\.parquet"):
        data.load("cifar100")
    (folder / "uoft-cs/cifar100/cifar100/train-00000-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match=r"0 of 1 files train-\*\.parquet"):
        data.load("cifar100")


def test_a_missing_mat_file_is_named(folder):
    _write(folder, "svhn", "torchvision")
    (folder / "test_32x32.mat").unlink()
    with pytest.raises(ValueError, match=r"test_32x32\.mat beside it is not"):
        data.load("svhn")


def test_truncated_data_are_refused(folder, monkeypatch):
    _write(folder, "cifar100", "arrays")
    monkeypatch.setattr(Cifar100, "counts", {"train": 50_000, "test": 10_000})
    with pytest.raises(ValueError, match=r"train holds 200 labels.*expected 50000"):
        data.load("cifar100")


def test_classes_in_another_order_are_refused(folder):
    names = ["aquarium_fish", "apple", *Cifar100.class_names[2:]]
    _write_hub(folder, Cifar100, names=names)
    with pytest.raises(ValueError, match="0 is 'aquarium_fish', not 'apple'"):
        data.load("cifar100")


def test_a_broken_picture_is_named(folder):
    _write_hub(folder, Cifar100)
    path = folder / "uoft-cs/cifar100/cifar100/test-00000-of-00001.parquet"
    table = pq.read_table(path)
    cells = table["img"].to_pylist()
    cells[7]["bytes"] = cells[7]["bytes"][:100]
    pq.write_table(table.set_column(0, "img", pa.array(cells, table["img"].type)), path)
    with pytest.raises(ValueError, match=r"picture 7 of test of .*cannot be decoded"):
        data.load("cifar100")


class _Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_forged_pickle_is_refused_and_not_run(folder, capsys):
    _write(folder, "cifar100", "torchvision")
    (folder / "cifar-100-python" / "test").write_bytes(pickle.dumps({"data": _Evil(), "fine_labels": []}, protocol=2))
    with pytest.raises(ValueError, match=r"cifar-100-python/test is not the published file: it asks for .*print"):
        data.load("cifar100")
    assert "this must not run" not in capsys.readouterr().out


def test_pickles_that_are_something_else_are_refused(folder):
    _write(folder, "cifar100", "torchvision")
    path = folder / "cifar-100-python" / "train"
    for content in (b"", b"not a pickle", pickle.dumps([1]), pickle.dumps({"data": 1})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cifar-100-python/train is not the published file"):
            data.load("cifar100")
