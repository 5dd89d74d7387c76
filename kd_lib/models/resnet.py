"""ResNets for small images: resnet20, resnet20-w32, resnet8x4.

A 3x3 stem, three stages of n basic blocks (depth 6n + 2), the second and third at half the size of the one before.
A shortcut is a 1x1 convolution with batch norm where the shape changes, and the identity elsewhere.
Source: He et al. 2016, section 4.2, with CRD's shortcuts (Tian et al. 2020): parameter counts of METHODS section 6.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from kd_lib.models.layers import Block, ConvBN, Network, Stage, blocks_per_stage, initialise


class BasicBlock(Block):
    """relu(ConvBN(relu(ConvBN(x))) + shortcut(x))."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.first = ConvBN(c_in, c_out, stride=stride)
        self.second = ConvBN(c_out, c_out)
        changes = stride != 1 or c_in != c_out
        self.shortcut = ConvBN(c_in, c_out, kernel=1, stride=stride) if changes else nn.Identity()

    def preactivation(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x), inplace=True))
        y += self.shortcut(x)
        return y


class ResNet(Network):
    """Maps of the three stages, their pooled embedding and its logits. A stage's preactivation is its last block's sum.

    Args:
        n: blocks a stage.
        stem: channels of the first convolution.
        widths: channels of each stage.
        n_classes, in_channels: of the data.
    """

    def __init__(self, n: int, stem: int, widths: tuple[int, ...], n_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stage_channels = widths
        self.stem = ConvBN(in_channels, stem)
        self.stages = nn.ModuleList()
        for i, (c_in, c_out) in enumerate(zip((stem, *widths), widths, strict=False)):
            first = BasicBlock(c_in, c_out, stride=1 if i == 0 else 2)
            self.stages.append(Stage(first, *(BasicBlock(c_out, c_out, stride=1) for _ in range(n - 1))))
        self.classifier = nn.Linear(widths[-1], n_classes)
        initialise(self)

    def enter(self, x: Tensor) -> Tensor:
        return F.relu(self.stem(x), inplace=True)


def resnet(depth: int, *, n_classes: int, in_channels: int) -> ResNet:
    """`resnet20`: stages of 16, 32, 64 channels, the stem 16 wide."""
    n = blocks_per_stage("resnet{}", depth, layers_outside=2)
    return ResNet(n, 16, (16, 32, 64), n_classes, in_channels)


def resnet_w(depth: int, width: int, *, n_classes: int, in_channels: int) -> ResNet:
    """`resnet20-w32`: stages of 32, 64, 128 channels, the stem as wide as the first stage."""
    n = blocks_per_stage(f"resnet{{}}-w{width}", depth, layers_outside=2)
    return ResNet(n, width, (width, 2 * width, 4 * width), n_classes, in_channels)


def resnet_x(depth: int, factor: int, *, n_classes: int, in_channels: int) -> ResNet:
    """CRD's `resnet8x4`: stages of 16, 32, 64 channels times the factor; the stem is 32 wide whatever the factor."""
    n = blocks_per_stage(f"resnet{{}}x{factor}", depth, layers_outside=2)
    return ResNet(n, 32, (16 * factor, 32 * factor, 64 * factor), n_classes, in_channels)
