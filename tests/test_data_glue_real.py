"""The real sst2, rte and mrpc, where they are at hand."""

import numpy as np
import pytest

from kd_lib import data
from kd_lib.data.glue import TASKS

DEVELOPMENT = {"glue/sst2": [428, 444], "glue/rte": [146, 131], "glue/mrpc": [129, 279]}


@pytest.fixture
def here(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(tmp_path))
    monkeypatch.setenv("KD_DATA", str(shared_data))
    data._load.cache_clear()
    yield lambda name: TASKS[name].find() or pytest.skip(f"no {name} among the shared data")
    data._load.cache_clear()


@pytest.mark.parametrize("name", DEVELOPMENT)
def test_it_is_the_published_one(here, name):
    """Development sets are complete, labels as often as published; of mrpc's training part a row may be missing."""
    here(name)
    task = TASKS[name]
    parts, _ = task.raw_splits()
    texts, y = parts["validation"]
    assert np.bincount(y).tolist() == DEVELOPMENT[name]
    assert len(y) == task.counts["validation"]
    assert abs(len(parts["train"][1]) - task.counts["train"]) <= (name == "glue/mrpc")
    assert all(len(column) == len(y) and min(map(len, column)) > 0 for column in texts)


def test_it_is_tokenised_and_kept(here, monkeypatch):
    here("glue/rte")
    rte = data.load("glue/rte", tokenizer="wordpiece:4000")
    assert rte.sizes == {"n_classes": 2, "vocabulary": 4000, "pad": 0, "separator": 3, "max_length": 128}
    assert (len(rte.train_y), rte.test_y.bincount().tolist()) == (2490, [146, 131])
    unknown = (rte.test_x == rte.tokens.index("[UNK]")).sum() / (rte.test_x != rte.pad).sum()
    assert unknown < 0.001
    assert (rte.train_x == rte.separator).sum(1).tolist() == [2] * 2490
    data._load.cache_clear()
    monkeypatch.delenv("KD_DATA")
    assert data.load("glue/rte", tokenizer="wordpiece:4000").fingerprint == rte.fingerprint
    assert len(data.load("glue/rte", tokenizer="wordpiece:4000", split="validation").test_y) == 249
