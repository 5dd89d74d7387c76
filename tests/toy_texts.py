"""Four made-up texts, networks that read them, and tiny students of texts ready to train."""

import pytest
import torch
from tiny import TEACHER, TEXT_TEACHER, text_student
from torch.nn import functional as F

from kd_lib import models, runs
from kd_lib.runs import ensure
from kd_lib.shapes import Batch

TOKENS = {"n_classes": 4, "vocabulary": 30, "pad": 0, "separator": 3, "max_length": 12}
B, LENGTHS = 4, (7, 3, 5, 7)
ONE_EPOCH = {"setup_epochs": 1}


def batch(seed=0, pad=0):
    """Four texts of 7, 3, 5 and 7 tokens."""
    x = torch.randint(4, 30, (B, 7), generator=torch.Generator().manual_seed(seed))
    x = x * (torch.arange(7) < torch.tensor(LENGTHS)[:, None])
    return Batch(torch.arange(B), F.pad(x, (0, pad)), torch.arange(B) % 4, seed=5)


def network(name, seed=0, **sizes):
    torch.manual_seed(seed)
    made = models.build(name, **{**TOKENS, **sizes})
    made.keep_attentions = True
    return made


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_RUNS", str(tmp_path_factory.mktemp("store")))
        for teacher in (TEXT_TEACHER, TEACHER):
            ensure(teacher, device="cpu")
        yield


def opened(method, **changes):
    return runs._open(text_student(method, **changes), "cpu")


def first_batch(made):
    index = torch.arange(40)
    return Batch(index, next(made.data.inputs("train", 40)), made.data.train_y[index], seed=1)
