"""Random outputs of a student and a teacher for some of sixty images: what the tests of CRD and SSKD share."""

import pytest
import torch
from torch import Tensor

from kd_lib.shapes import Batch, Outputs

N_TRAIN, CLASSES = 60, 6
LABELS = torch.arange(N_TRAIN) % CLASSES
INDEX = torch.tensor([3, 9, 17, 44, 58])
SIZES = {"narrow from wide": (3, 7), "wide from narrow": (8, 2)}
every_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def random_outputs(rows: int, features: int, *, live: bool = False, seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    logits, embedding = (torch.randn(rows, n, generator=generator) for n in (CLASSES, features))
    return Outputs(logits.requires_grad_(live), embedding.requires_grad_(live))


def batch_of(index: Tensor = INDEX, seed: int = 11) -> Batch:
    return Batch(index, torch.zeros(len(index), 1, 4, 4), LABELS[index], seed)


def no_gradient(parameters) -> bool:
    return all(p.grad is None or not p.grad.any() for p in parameters)


def some_gradient(parameters) -> bool:
    return all(p.grad is not None and p.grad.any() for p in parameters)
