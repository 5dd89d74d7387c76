"""ResNet50 for small images: bottleneck blocks behind a 3x3 stem, without max pooling.

Stages of 3, 4, 6, 3 blocks with 256, 512, 1024, 2048 channels; the last three begin by halving the size (32, 16, 8, 4
pixels for 32x32 images). Source: He et al. 2016, Table 1, in the form CRD and SFTN use for CIFAR-100.
The papers leave open: which convolution of a block halves the size. Here the 3x3 one, so that no pixel goes unread.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from kd_lib.models.layers import Block, ConvBN, Network, Stage, initialise

BLOCKS = (3, 4, 6, 3)
STEM = 64
EXPANSION = 4  # of a block's output over its 3x3 convolution


class Bottleneck(Block):
    """relu(1x1, 3x3 and 1x1 ConvBN, ReLU between them, + shortcut(x))."""

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = EXPANSION * width
        self.first = ConvBN(c_in, width, kernel=1)
        self.second = ConvBN(width, width, stride=stride)
        self.third = ConvBN(width, c_out, kernel=1)
        changes = stride != 1 or c_in != c_out
        self.shortcut = ConvBN(c_in, c_out, kernel=1, stride=stride) if changes else nn.Identity()

    def preactivation(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x), inplace=True)
        y = self.third(F.relu(self.second(y), inplace=True))
        y += self.shortcut(x)
        return y


class ResNet50(Network):
    """Maps of the four stages, their pooled embedding and its logits. A stage's preactivation is its last block's sum."""

    def __init__(self, n_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = ConvBN(in_channels, STEM)
        self.stages = nn.ModuleList()
        c_in = STEM
        for i, n in enumerate(BLOCKS):
            width = STEM * 2**i
            first = Bottleneck(c_in, width, stride=1 if i == 0 else 2)
            c_in = EXPANSION * width
            self.stages.append(Stage(first, *(Bottleneck(c_in, width, stride=1) for _ in range(n - 1))))
        self.stage_channels = tuple(EXPANSION * STEM * 2**i for i in range(len(BLOCKS)))
        self.classifier = nn.Linear(c_in, n_classes)
        initialise(self)

    def enter(self, x: Tensor) -> Tensor:
        return F.relu(self.stem(x), inplace=True)


def resnet50(*, n_classes: int, in_channels: int) -> ResNet50:
    """`resnet50`, of bottleneck blocks: no network of basic blocks has this name, though 50 = 6 x 8 + 2."""
    return ResNet50(n_classes, in_channels)
