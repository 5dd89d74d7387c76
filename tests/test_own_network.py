"""The whole way for a network of one's own, to copy: write it, name its stages, distil it from a teacher."""

from tiny import TEACHER, TINY
from torch import nn

from kd_lib import Run, ensure
from kd_lib.models import Staged


class MyNetwork(nn.Module):
    def __init__(self, n_classes: int, in_channels: int):
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(in_channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, n_classes)

    def forward(self, x):
        return self.head(self.block2(self.block1(x)).mean((2, 3)))


def my_network(n_classes: int, in_channels: int) -> Staged:
    return Staged(MyNetwork(n_classes, in_channels), stages=["block1", "block2"], classifier="head")


def test_a_network_of_ones_own_learns_from_a_teacher():
    student = Run(network=f"{__name__}:my_network", teacher=TEACHER, method="kd", **TINY)
    [result] = ensure(student)
    assert result.outputs.logits.shape == (100, 100) and result.outputs.embedding.shape == (100, 16)
    assert result.metrics["loss"].iloc[-1] < result.metrics["loss"].iloc[0]
