"""Images of one's own: folders and parquet files."""

import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from kd_lib import data


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "runs"))
    data._load.cache_clear()
    yield
    data._load.cache_clear()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "mine"


def _picture(seed, shape=(32, 32, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _tree(root, counts, shape=(32, 32, 3)):
    """`counts` maps a folder such as "train/cat" to a number of pictures; seeds count through."""
    seed = 0
    for folder, n in counts.items():
        for k in range(n):
            _save(root / folder / f"{k}.png", _picture(seed, shape))
            seed += 1


def test_folder_with_train_and_test(root):
    _tree(root, {"train/cat": 2, "train/dog": 3, "test/dog": 1, "test/cat": 1})
    mine = data.load(f"folder:{root}", augment="crop_flip")
    assert mine.class_names == ("cat", "dog")
    assert mine.train_y.tolist() == [0, 0, 1, 1, 1]
    assert mine.test_y.tolist() == [0, 1]
    expected = [torch.from_numpy(_picture(seed)).permute(2, 0, 1) for seed in (*range(5), 6, 5)]
    assert torch.equal(torch.cat([mine.train_x, mine.test_x]), torch.stack(expected))
    assert mine.augment == "crop_flip"
    assert mine.name == f"folder:{root}"
    pixels = mine.train_x.double() / 255
    assert mine.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())


def test_val_is_test_where_there_is_no_test(root):
    _tree(root, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    from_val = data.load(f"folder:{root}")
    assert len(from_val.test_y) == 2
    _tree(root, {"test/a": 3, "test/b": 1})
    assert data.load(f"folder:{root}").test_y.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("below", ["", "train/"])
def test_without_a_test_part_a_fixed_fifth_is_held_out(root, below):
    _tree(root, {f"{below}a": 10, f"{below}b": 20})
    mine = data.load(f"folder:{root}")
    assert mine.train_y.bincount().tolist() == [8, 16]
    assert mine.test_y.bincount().tolist() == [2, 4]
    everything = {x.numpy().tobytes() for x in torch.cat([mine.train_x, mine.test_x])}
    assert len(everything) == 30


def test_other_sizes_are_resized_and_cut_to_the_centre(root):
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = (10, 20, 30)  # the middle third survives
    for name in ("a", "b"):
        _save(root / name / "wide.png", wide)
        _save(root / name / "tall.png", wide.transpose(1, 0, 2))
        for k in range(3):
            _save(root / name / f"exact{k}.png", _picture(10 * ord(name) + k, (16, 16, 3)))
    mine = data.load(f"folder:{root}", size=16)
    x = torch.cat([mine.train_x, mine.test_x])
    assert x.shape == (10, 3, 16, 16)
    flat = [image for image in x if image.flatten(1).unique(dim=1).shape[1] == 1]
    assert [image[:, 0, 0].tolist() for image in flat] == [[10, 20, 30]] * 4
    data._load.cache_clear()
    larger = data.load(f"folder:{root}", size=24)
    assert larger.train_x.shape[1:] == (3, 24, 24)


def test_grey_pictures_have_one_channel_and_one_coloured_picture_makes_three(root):
    _tree(root, {"a": 5, "b": 5}, shape=(32, 32))
    grey = data.load(f"folder:{root}")
    assert grey.sizes["in_channels"] == 1
    assert len(grey.mean) == 1
    _save(root / "a" / "coloured.png", _picture(99))
    mixed = data.load(f"folder:{root}")
    assert mixed.sizes["in_channels"] == 3
    equal = [bool((image == image[:1]).all()) for image in torch.cat([mixed.train_x, mixed.test_x])]
    assert equal.count(False) == 1


def test_edited_pictures_are_noticed_and_undone_edits_too(root):
    _tree(root, {"a": 5, "b": 5})
    first = data.fingerprint(f"folder:{root}")
    _save(root / "a" / "0.png", _picture(1000))
    os.utime(root / "a" / "0.png", ns=(1, 1))
    assert data.fingerprint(f"folder:{root}") != first
    _save(root / "a" / "0.png", _picture(0))
    assert data.fingerprint(f"folder:{root}") == first


def test_fingerprint_is_of_the_content_and_not_of_the_place(root, tmp_path):
    _tree(root, {"a": 5, "b": 5})
    _tree(tmp_path / "copy", {"a": 5, "b": 5})
    assert data.fingerprint(f"folder:{root}") == data.fingerprint(f"folder:{tmp_path / 'copy'}")
    assert data.fingerprint(f"folder:{root}") != data.fingerprint(f"folder:{root}", augment="crop")


def test_hidden_and_other_files_are_left_out(root):
    _tree(root, {"a": 5, "b": 5})
    before = data.fingerprint(f"folder:{root}")
    (root / "a" / "notes.txt").write_text("no picture")
    (root / "a" / "._0.png").write_text("no picture either")
    _save(root / ".thumbs" / "0.png", _picture(5))
    _save(root / "loose.png", _picture(6))
    assert data.fingerprint(f"folder:{root}") == before


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ({}, data.DataNotFound, "mine holds no CLASS/PICTURE"),
        ({"train/a": 2, "train/b": 1, "test": 1}, data.DataNotFound, "test holds no CLASS/PICTURE"),
        ({"test/a": 2}, ValueError, "folder test, but none called train"),
        ({"train/cat": 2, "train/dog": 2, "test/cats": 1}, ValueError, "class in test.*'cats'.*Did you mean 'cat'"),
        ({"a": 1, "b": 4}, ValueError, "class 0 has one image"),
    ],
)
def test_folders_of_another_shape_are_refused(root, counts, error, message):
    _tree(root, counts)
    with pytest.raises(error, match=message):
        data.load(f"folder:{root}")


def test_unreadable_pictures_are_named(root):
    _tree(root, {"a": 5, "b": 5})
    (root / "a" / "3.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"a/3\.png cannot be decoded"):
        data.load(f"folder:{root}")
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(root / "a" / "3.png")
    with pytest.raises(ValueError, match=r"a/3\.png has mode I;16"):
        data.load(f"folder:{root}")


def _table(n, labels, *, column="image", label="label", struct=True, names=None, start=0):
    cells = [_png(_picture(start + k)) for k in range(n)]
    pictures = [{"bytes": c, "path": None} for c in cells] if struct else cells
    table = pa.table({column: pictures, label: labels, "other": list(range(n))})
    if names:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    return table


def test_parquet_folder_with_parts_and_names(root):
    root.mkdir()
    pq.write_table(_table(2, [1, 0], names=["cat", "dog"]), root / "train-00000-of-00002.parquet")
    pq.write_table(_table(1, [1], names=["cat", "dog"], start=2), root / "train-00001-of-00002.parquet")
    pq.write_table(_table(1, [0], names=["cat", "dog"], start=3), root / "test-00000-of-00001.parquet")
    mine = data.load(f"parquet:{root}")
    assert mine.class_names == ("cat", "dog")
    assert mine.train_y.tolist() == [1, 0, 1]
    assert torch.equal(mine.train_x[2], torch.from_numpy(_picture(2)).permute(2, 0, 1))
    assert torch.equal(mine.test_x[0], torch.from_numpy(_picture(3)).permute(2, 0, 1))


def test_parquet_file_of_bytes_and_text_labels(tmp_path):
    path = tmp_path / "any.parquet"
    pq.write_table(_table(20, ["dog", "cat"] * 10, column="img", struct=False), path)
    mine = data.load(f"parquet:{path}")
    assert mine.class_names == ("cat", "dog")
    assert mine.train_y.bincount().tolist() == [8, 8]
    assert mine.test_y.bincount().tolist() == [2, 2]
    known = {_picture(k).transpose(2, 0, 1).tobytes(): (k + 1) % 2 for k in range(20)}
    assert [known[x.numpy().tobytes()] for x in mine.train_x] == mine.train_y.tolist()


def test_integer_labels_without_names_are_numbered_in_order(tmp_path):
    path = tmp_path / "any.parquet"
    pq.write_table(_table(20, [30, 7] * 10), path)
    mine = data.load(f"parquet:{path}")
    assert mine.class_names == ("7", "30")


def test_columns_of_other_names_are_chosen_by_settings(tmp_path):
    path = tmp_path / "any.parquet"
    pq.write_table(_table(20, [0, 1] * 10, column="photo", label="kind"), path)
    mine = data.load(f"parquet:{path}", image_column="photo", label_column="kind")
    assert mine.n_classes == 2
    for settings, message in [
        ({}, "no column is called image or img; choose one with image_column. Columns: photo, kind, other"),
        ({"image_column": "photos", "label_column": "kind"}, "column.*'photos'.*Did you mean 'photo'"),
        ({"image_column": "other", "label_column": "kind"}, "'other' of .* holds int64, not encoded pictures"),
        ({"image_column": "photo", "label_column": "photo"}, "labels are integers or text"),
        ({"image_column": "photo"}, "no column is called label.*label_column"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.load(f"parquet:{path}", **settings)


def test_several_label_columns_need_a_choice(tmp_path):
    path = tmp_path / "any.parquet"
    pq.write_table(_table(10, [0, 1] * 5).append_column("fine_label", pa.array([0] * 5 + [1] * 5)), path)
    with pytest.raises(
        ValueError, match="columns label and fine_label could all be meant; choose one with label_column"
    ):
        data.load(f"parquet:{path}")
    assert data.load(f"parquet:{path}", label_column="fine_label").n_classes == 2


def test_rows_without_a_label_or_a_picture_are_refused(tmp_path):
    path = tmp_path / "any.parquet"
    pq.write_table(_table(4, [0, 1, None, 1]), path)
    with pytest.raises(ValueError, match=r"'label' of .* is empty in 1 of 4 rows"):
        data.load(f"parquet:{path}")
    table = pa.table({"image": [{"bytes": None, "path": "a.png"}] * 4, "label": [0, 1, 0, 1]})
    pq.write_table(
        table.cast(
            pa.schema([("image", pa.struct({"bytes": pa.binary(), "path": pa.string()})), ("label", pa.int64())])
        ),
        path,
    )
    with pytest.raises(ValueError, match=r"'image' of .* is empty in 4 of 4 rows"):
        data.load(f"parquet:{path}")


def test_labels_that_training_never_saw_are_refused(root):
    root.mkdir()
    pq.write_table(_table(4, [0, 1, 0, 1]), root / "train.parquet")
    pq.write_table(_table(1, [-1], start=4), root / "test.parquet")
    with pytest.raises(ValueError, match=r"label in test of .*: -1"):
        data.load(f"parquet:{root}")


def test_parquet_files_of_unclear_parts_are_refused(root):
    with pytest.raises(data.DataNotFound, match="no parquet file and no folder"):
        data.load(f"parquet:{root}")
    root.mkdir()
    pq.write_table(_table(4, [0, 1, 0, 1]), root / "train.parquet")
    pq.write_table(_table(4, [0, 1, 0, 1]), root / "more.parquet")
    with pytest.raises(ValueError, match=r"there is more\.parquet"):
        data.load(f"parquet:{root}")


def test_edited_parquet_is_noticed(tmp_path):
    path = tmp_path / "any.parquet"
    pq.write_table(_table(10, [0, 1] * 5), path)
    first = data.fingerprint(f"parquet:{path}")
    pq.write_table(_table(10, [1, 0] * 5), path)
    assert data.fingerprint(f"parquet:{path}") != first
