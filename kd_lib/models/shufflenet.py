"""ShuffleNets for small images: shufflenetv1 (3 groups, width 1) and shufflenetv2 (width 1).

A 1x1 stem of 24 channels at full size, then three stages of 4, 8, 4 units, each beginning by halving the size (16, 8, 4
pixels for 32x32 images). Sources: Zhang et al. 2018, Table 1 and Fig. 2; Ma et al. 2018, Table 5 and Fig. 3.
Differs from the papers, whose images are 224x224: no max pooling, and a stem that keeps the size. Its 1x1 kernel, and in
V1 a bottleneck of a quarter of what the unit's branch puts out (Zhang 2018: of what the unit puts out, which differs
where a shortcut is concatenated), give the sizes of CRD's networks: 949,258 and 1,355,528 parameters at 100 classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_lib.models.layers import Block, ConvBN, Network, Stage, initialise

STEM = 24
UNITS = (4, 8, 4)
GROUPS_V1 = 3
WIDTHS_V1 = (240, 480, 960)
WIDTHS_V2 = (116, 232, 464)
LAST_V2 = 1024


class UnitV1(Block):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; added to x or, where the size halves, concatenated to pooled x.

    The network's first unit does not group its first convolution: the stem has too few channels.
    """

    def __init__(self, c_in: int, c_out: int, *, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        branch = c_out - c_in if halves else c_out
        middle = branch // 4
        self.first = ConvBN(c_in, middle, kernel=1, groups=1 if c_in == STEM else GROUPS_V1)
        self.depthwise = ConvBN(middle, middle, stride=2 if halves else 1, groups=middle)
        self.second = ConvBN(middle, branch, kernel=1, groups=GROUPS_V1)

    def preactivation(self, x: Tensor) -> Tensor:
        y = F.channel_shuffle(F.relu(self.first(x), inplace=True), GROUPS_V1)
        y = self.second(self.depthwise(y))
        if self.halves:
            return torch.cat((F.avg_pool2d(x, 3, stride=2, padding=1), y), 1)
        y += x
        return y


class UnitV2(Block):
    """1x1, depthwise 3x3, 1x1 on one half of the channels; the other half passes unchanged; concatenate and shuffle.

    Where the size halves, both branches read all channels, and the other one is a depthwise 3x3 and a 1x1.
    The half that passes is a ReLU's output already, so one ReLU at the end serves both.
    """

    def __init__(self, c_in: int, c_out: int, *, halves: bool) -> None:
        super().__init__()
        half = c_out // 2
        stride = 2 if halves else 1
        self.other = nn.Sequential(ConvBN(c_in, c_in, stride=2, groups=c_in), ConvBN(c_in, half, 1)) if halves else None
        self.first = ConvBN(c_in if halves else half, half, kernel=1)
        self.depthwise = ConvBN(half, half, stride=stride, groups=half)
        self.second = ConvBN(half, half, kernel=1)

    def preactivation(self, x: Tensor) -> Tensor:
        other, mine = x.chunk(2, dim=1) if self.other is None else (self.other(x), x)
        mine = self.second(self.depthwise(F.relu(self.first(mine), inplace=True)))
        return F.channel_shuffle(torch.cat((other, mine), 1), 2)


class Pointwise(Block):
    """relu(1x1 ConvBN)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.only = ConvBN(c_in, c_out, kernel=1)

    def preactivation(self, x: Tensor) -> Tensor:
        return self.only(x)


class ShuffleNet(Network):
    """Maps of the three stages, their pooled embedding and its logits.

    A stage's preactivation is what its last ReLU reads: in V1 a sum, in V2 a shuffled concatenation, half of which (the
    channels that passed) is at least 0, and in V2's last stage a batch norm's output.

    Args:
        unit: `UnitV1` or `UnitV2`.
        widths: channels after the units of each stage.
        last: channels of a 1x1 convolution that closes the last stage, or None for none. The paper calls it a layer of
            its own; here it belongs to the stage, so that stages of both versions and of ResNets correspond.
        n_classes, in_channels: of the data.
    """

    def __init__(
        self, unit: type[Block], widths: tuple[int, ...], last: int | None, n_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.stem = ConvBN(in_channels, STEM, kernel=1)
        self.stages = nn.ModuleList()
        for c_in, c_out, n in zip((STEM, *widths), widths, UNITS, strict=False):
            first = unit(c_in, c_out, halves=True)
            self.stages.append(Stage(first, *(unit(c_out, c_out, halves=False) for _ in range(n - 1))))
        if last is not None:
            self.stages[-1].append(Pointwise(widths[-1], last))
        self.stage_channels = (*widths[:-1], last or widths[-1])
        self.classifier = nn.Linear(self.stage_channels[-1], n_classes)
        initialise(self)

    def enter(self, x: Tensor) -> Tensor:
        return F.relu(self.stem(x), inplace=True)


def shufflenet_v1(*, n_classes: int, in_channels: int) -> ShuffleNet:
    """`shufflenetv1`: stages of 240, 480, 960 channels. CRD's learning rate for it is 0.01."""
    return ShuffleNet(UnitV1, WIDTHS_V1, None, n_classes, in_channels)


def shufflenet_v2(*, n_classes: int, in_channels: int) -> ShuffleNet:
    """`shufflenetv2`: stages of 116, 232, 464 channels, the last one closed by 1024. CRD's learning rate is 0.01."""
    return ShuffleNet(UnitV2, WIDTHS_V2, LAST_V2, n_classes, in_channels)
