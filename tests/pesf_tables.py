"""The two PESF-KD papers: their pairs of networks, the sizes of those, and all their numbers."""

import pytest
import torch

from kd_lib import models, papers

PAIRS = ("resnet56->resnet20", "resnet110->resnet32", "vgg13->vgg8", "resnet56->vgg8")
IMAGENET, TEXT = "resnet50->resnet18", "bert12->bert6"


def parameters(name: str, n_classes: int = 100) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in models.build(name, n_classes=n_classes).parameters())


@pytest.fixture(scope="module")
def frame():
    return papers.load(["pesf_v1", "pesf_v2"])
