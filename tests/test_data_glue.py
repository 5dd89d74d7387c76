"""GLUE: tables in the hub's layout become tokens and labels, and what is absent or not GLUE is refused with a reason."""

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kd_lib import data
from kd_lib.data import tokens
from kd_lib.data.glue import TASKS, Mrpc, Rte, Sst2, Stsb

NAMES = list(TASKS)
LEARNT = {"tokenizer": "wordpiece:120"}
COUNTS = {"train": 60, "validation": 20}
WORDS = ["a", "bad", "film", "is", "not", "the", "worst", "of", "films;", "good", "acting", "and", "café", "scenes"]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KD_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("KD_DOWNLOAD", raising=False)
    for task in TASKS.values():
        monkeypatch.setattr(task, "counts", COUNTS)
    data._load.cache_clear()
    yield
    data._load.cache_clear()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def _rows(task, split, n=None, longest=9):
    """Made-up texts, no two alike, and labels."""
    rng = random.Random(f"{task.kind}{split}")
    texts = [
        [f"{' '.join(rng.choices(WORDS, k=rng.randint(1, longest)))} {split[0]}{i}" for i in range(n or COUNTS[split])]
        for _ in task.columns
    ]
    labels = range(len(texts[0]))
    return texts, [k / 4 for k in labels] if task is Stsb else [k % 2 for k in labels]


def _write(folder, task, *, files=1, names=None, shuffle=None, rows=_rows):
    folder = folder / "nyu-mll/glue" / task.kind.removeprefix("glue/")
    folder.mkdir(parents=True)
    feature = (
        {"dtype": "float32"} if task is Stsb else {"names": list(names or task.class_names), "_type": "ClassLabel"}
    )
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    for split in ("train", "validation"):
        texts, labels = rows(task, split)
        order = list(range(len(labels)))
        random.Random(shuffle).shuffle(order) if shuffle is not None else None
        for k, part in enumerate(np.array_split(order, files)):
            columns = {c: [t[i] for i in part] for c, t in zip(task.columns, texts, strict=True)}
            kind = pa.float32() if task is Stsb else pa.int64()
            columns["label"] = pa.array([labels[i] for i in part], kind)
            table = pa.table({**columns, "idx": pa.array(part, pa.int32())})
            if names != ():
                table = table.replace_schema_metadata(metadata)
            pq.write_table(table, folder / f"{split}-{k:05d}-of-{files:05d}.parquet")
    return folder


def _slow_pieces(word, vocabulary):
    """Greedy: the longest piece that is known, then on."""
    pieces, start = [], 0
    while start < len(word):
        known = [
            ("##" if start else "") + word[start:end]
            for end in range(len(word), start, -1)
            if ("##" if start else "") + word[start:end] in vocabulary
        ]
        if not known:
            return ["[UNK]"]
        pieces.append(known[0])
        start += len(known[0].removeprefix("##"))
    return pieces


def _slow(texts, vocabulary):
    """One row of texts as BERT reads it: lower case, no accents, punctuation apart."""
    out = ["[CLS]"]
    for text in texts:
        for word in text.lower().replace("é", "e").replace(";", " ; ").split():
            out += _slow_pieces(word, vocabulary)
        out.append("[SEP]")
    return tuple(out)


@pytest.mark.parametrize("name", NAMES)
def test_every_task_has_its_texts_and_labels(folder, name):
    task = TASKS[name]
    _write(folder, task, files=2)
    loaded = data.load(name, **LEARNT)
    vocabulary = set(loaded.tokens)
    for part, split, y in (("train", "train", loaded.train_y), ("test", "validation", loaded.test_y)):
        texts, labels = _rows(task, split)
        expected = sorted((_slow(row, vocabulary), label) for row, label in zip(zip(*texts), labels, strict=True))  # noqa: B905
        assert sorted((tuple(loaded.pieces(part, i)), y[i].item()) for i in range(len(y))) == expected
    assert loaded.class_names == task.class_names
    assert loaded.sizes["n_classes"] == (1 if task is Stsb else 2)
    assert loaded.train_y.dtype == (torch.float32 if task is Stsb else torch.int64)
    assert (loaded.tokens[loaded.pad], loaded.tokens[loaded.separator]) == ("[PAD]", "[SEP]")


def test_the_main_scores_are_the_papers():
    scores = {name.removeprefix("glue/"): task.score for name, task in TASKS.items()}
    assert scores == {
        "sst2": "accuracy",
        "rte": "accuracy",
        "mrpc": "f1",
        "stsb": "pearson",
        "qnli": "accuracy",
        "qqp": "f1",
        "cola": "matthews",
    }


def test_fingerprint_depends_on_the_texts_and_not_on_their_files(tmp_path, monkeypatch):
    values = set()
    for k, how in enumerate(({}, {"files": 3}, {"shuffle": 1}, {"shuffle": 2})):
        (tmp_path / f"data{k}").mkdir()
        _write(tmp_path / f"data{k}", Rte, **how)
        monkeypatch.setenv("KD_DATA", str(tmp_path / f"data{k}"))
        monkeypatch.setenv("KD_RUNS", str(tmp_path / f"runs{k}"))
        values.add(data.fingerprint("glue/rte", **LEARNT))
    assert len(values) == 1


def test_fingerprint_depends_on_tokens_and_labels(folder, tmp_path, monkeypatch):
    _write(folder, Rte)
    values = [
        data.fingerprint("glue/rte", **{**LEARNT, **change})
        for change in ({}, {"tokenizer": "wordpiece:110"}, {"max_length": 12})
    ]

    def other_labels(task, split):
        texts, labels = _rows(task, split)
        return texts, labels[::-1]

    _write(tmp_path / "other", Rte, rows=other_labels)
    monkeypatch.setenv("KD_DATA", str(tmp_path / "other"))
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "other runs"))
    values.append(data.fingerprint("glue/rte", **LEARNT))
    assert len(set(values)) == 4


def test_once_tokenised_the_files_are_not_needed(folder, monkeypatch):
    _write(folder, Sst2)
    made = data.load("glue/sst2", **LEARNT)
    data._load.cache_clear()
    monkeypatch.delenv("KD_DATA")
    kept = data.load("glue/sst2", **LEARNT)
    assert kept is not made
    assert torch.equal(kept.train_x, made.train_x)
    assert kept.tokens == made.tokens


def test_long_pairs_lose_tokens_of_the_longer_text(folder):
    _write(folder, Mrpc, rows=lambda task, split: _rows(task, split, longest=30))
    whole = data.load("glue/mrpc", **LEARNT)
    short = data.load("glue/mrpc", **LEARNT, max_length=16)
    assert short.sizes["max_length"] == 16
    assert whole.sizes["max_length"] > 16
    kept = {tuple(whole.pieces("train", i)) for i in range(60)}
    for i in range(60):
        row = short.pieces("train", i)
        assert (row[0], row[-1], row.count("[SEP]")) == ("[CLS]", "[SEP]", 2)
        assert len(row) == 16 or tuple(row) in kept


def test_a_learnt_vocabulary_is_the_same_every_time():
    """The trainer by itself gives another one each time, and each order of the texts."""
    texts = [f"{a}{b} {c}" for a in WORDS for b in WORDS for c in WORDS]
    vocabularies = set()
    for seed in range(4):
        random.Random(seed).shuffle(texts)
        vocabularies.add(tokens.tokenizer("wordpiece:150", 32, [texts]).tokens)
    assert len(vocabularies) == 1
    (vocabulary,) = vocabularies
    assert len(set(vocabulary)) == 150
    assert vocabulary[:4] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    assert set("abcdefgilmnorstw;") | {"##a", "##w", "film", "acting"} <= set(vocabulary)


def test_letters_that_training_lacks_are_unknown():
    own = tokens.tokenizer("wordpiece:120", 32, [WORDS])
    assert [own.tokens[i] for i in own.rows([["a qq film"]])[0]] == ["[CLS]", "a", "[UNK]", "film", "[SEP]"]


def test_a_vocabulary_needs_room(folder):
    _write(folder, Sst2)
    with pytest.raises(ValueError, match="vocabulary of 100 has no room"):
        tokens.tokenizer("wordpiece:100", 32, ["".join(chr(i) for i in range(0x4E00, 0x4E40))])
    for name in ("wordpiece:", "wordpiece:50", "wordpiece:many"):
        with pytest.raises(ValueError, match=rf"settings of glue/sst2: tokenizer='{name}'.*N of 100 or more"):
            data.load("glue/sst2", tokenizer=name)


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with the tokenizer of a tiny BERT."""
    from transformers import BertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789;"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), "film", "##ing"]
    folder = tmp_path / "bert"
    BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}).save_pretrained(folder)
    return folder, vocabulary


def test_the_tokenizer_of_a_checkpoint(folder, checkpoint):
    path, vocabulary = checkpoint
    _write(folder, Rte)
    loaded = data.load("glue/rte", tokenizer=str(path))
    assert loaded.tokens == tuple(vocabulary)
    assert (loaded.pad, loaded.separator) == (0, 3)
    expected = sorted(_slow(row, set(vocabulary)) for row in zip(*_rows(Rte, "train")[0], strict=True))
    assert sorted(tuple(loaded.pieces("train", i)) for i in range(60)) == expected
    short = data.load("glue/rte", tokenizer=str(path), max_length=10)
    assert short.sizes["max_length"] == 10


def test_a_changed_tokenizer_is_noticed(folder, checkpoint):
    path, _ = checkpoint
    before = Rte(tokenizer=str(path)).identity()
    assert before == Rte(tokenizer=str(path)).identity()
    (path / "tokenizer.json").write_text((path / "tokenizer.json").read_text().replace("film", "movie"))
    assert Rte(tokenizer=str(path)).identity() != before


def test_a_tokenizer_that_is_not_here_says_what_to_do(folder):
    _write(folder, Rte)
    with pytest.raises(
        data.DataNotFound, match=r"(?s)nobody/nothing is not on this machine.*KD_DOWNLOAD=1.*wordpiece:4"
    ):
        data.load("glue/rte", tokenizer="nobody/nothing")


@pytest.mark.parametrize("name", NAMES)
def test_absent_data_say_what_to_fetch(folder, name):
    with pytest.raises(data.DataNotFound) as caught:
        data.load(name, **LEARNT)
    for fact in [f"nyu-mll/{name}/{{train,validation}}-*.parquet", "KD_DOWNLOAD=1", "Licence: ", TASKS[name].size]:
        assert fact in str(caught.value)


def test_found_names_every_task(folder):
    _write(folder, Rte)
    lines = dict(line.split(": ", 1) for line in data.found())
    assert lines["glue/rte"] == str(folder / "nyu-mll/glue/rte")
    assert lines["glue/cola"] == "not in KD_DATA (size: 0.3 MB)"


def test_download_needs_permission_and_gives_the_same_data(tmp_path, monkeypatch, caplog, folder):
    import datasets

    real, asked = datasets.load_dataset, []

    def load_dataset(hub_id, data_files):
        asked.append((hub_id, data_files))
        return real(str(tmp_path / "hub" / hub_id), data_files=data_files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    _write(tmp_path / "hub", Rte)
    with pytest.raises(data.DataNotFound):
        data.load("glue/rte", **LEARNT)
    assert asked == []
    monkeypatch.setenv("KD_DOWNLOAD", "1")
    downloaded = data.load("glue/rte", **LEARNT)
    assert asked == [
        ("nyu-mll/glue", {"train": "rte/train-*.parquet", "validation": "rte/validation-*.parquet"})
    ]  # and not the test part, which has no labels
    assert "Downloading nyu-mll/glue" in caplog.text
    _write(folder, Rte)
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "other"))
    assert data.fingerprint("glue/rte", **LEARNT) == downloaded.fingerprint


def test_classes_in_another_order_are_refused(folder):
    _write(folder, Rte, names=("not_entailment", "entailment"))
    with pytest.raises(ValueError, match="0 is 'not_entailment', not 'entailment'"):
        data.load("glue/rte", **LEARNT)


def test_files_without_names_are_taken_to_be_in_our_order(folder):
    _write(folder, Rte, names=())
    assert data.load("glue/rte", **LEARNT).class_names == ("entailment", "not_entailment")


def test_secret_labels_are_refused(folder):
    _write(folder, Rte, rows=lambda task, split: (_rows(task, split)[0], [-1] * COUNTS[split]))
    with pytest.raises(ValueError, match="labels -1 to -1, but there are 2 classes"):
        data.load("glue/rte", **LEARNT)


def test_a_broken_copy_is_refused_and_one_that_lacks_a_row_is_named(folder, monkeypatch, caplog):
    _write(folder, Rte)
    monkeypatch.setattr(Rte, "counts", {"train": 61, "validation": 20})
    with pytest.raises(ValueError, match=r"train of .* holds 60 rows, expected 61"):
        data.load("glue/rte", **LEARNT)
    monkeypatch.setattr(Rte, "counts", {"train": 60, "validation": 20})
    monkeypatch.setattr("kd_lib.data.glue._SLACK", 0.1)
    data.load("glue/rte", **LEARNT)
    assert caplog.text == ""
    monkeypatch.setattr(Rte, "counts", {"train": 61, "validation": 20})
    data.load("glue/rte", **LEARNT, max_length=64)
    assert "train of" in caplog.text
    assert "holds 60 rows, and the published glue/rte 61" in caplog.text


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("sentence1", list(range(60)), "'sentence1' of train of .* holds int64, not texts"),
        ("sentence1", [None] + ["a"] * 59, "'sentence1' of train of .* is empty in 1 of 60 rows"),
        ("label", [0.5] * 60, "'label' of train of .*; labels are integers or text"),
        ("sentence2", None, "unknown column of train of .*: 'sentence2'"),
    ],
)
def test_columns_that_are_not_glues_are_named(folder, column, values, message):
    path = _write(folder, Rte) / "train-00000-of-00001.parquet"
    table = pq.read_table(path).drop_columns([column])
    pq.write_table(table if values is None else table.append_column(column, pa.array(values)), path)
    with pytest.raises(ValueError, match=message):
        data.load("glue/rte", **LEARNT)


def test_numbers_to_predict_are_real(folder):
    path = _write(folder, Stsb) / "train-00000-of-00001.parquet"
    table = pq.read_table(path).drop_columns(["label"]).append_column("label", pa.array([1] * 60))
    pq.write_table(table, path)
    with pytest.raises(ValueError, match="holds int64, not real numbers"):
        data.load("glue/stsb", **LEARNT)


def test_settings_are_those_of_the_papers():
    assert (Rte().tokenizer, Rte().max_length) == ("google-bert/bert-base-uncased", 128)
