"""Wide ResNets: wrn-16-2 has depth 16 (6n + 4) and stages of 2 x (16, 32, 64) channels.

Pre-activation: batch norm and ReLU come before a convolution, the sum of a block is left as it is, and one last batch
norm and ReLU close the network. Source: Zagoruyko and Komodakis 2016, without dropout, as CRD uses them.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from kd_lib.models.layers import ConvBN, Network, blocks_per_stage, check_stage, initialise, read_out
from kd_lib.shapes import Outputs


class PreActivationBlock(nn.Module):
    """conv(relu(ConvBN(a))) + shortcut, with a = relu(bn(x)).

    The shortcut is x itself, or a 1x1 convolution of a where the shape changes.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(c_in)
        self.first = ConvBN(c_in, c_out, stride=stride)
        self.second = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        changes = stride != 1 or c_in != c_out
        self.shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        """`a` may be given by who has it already."""
        a = F.relu(self.bn(x), inplace=True) if a is None else a
        y = self.second(F.relu(self.first(a), inplace=True))
        y += x if self.shortcut is None else self.shortcut(a)
        return y


class Stage(nn.Sequential):
    """Blocks one after another; the first one may be given its `a`."""

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        first, *blocks = self
        x = first(x, a)
        for block in blocks:
            x = block(x)
        return x


class WideResNet(Network):
    """Maps of the three stages, their pooled embedding and its logits.

    The maps of the first two stages are block sums, before the next block's batch norm and ReLU; the last one is taken
    after the final batch norm and ReLU, because that is what is pooled.

    A stage's preactivation is the output of the batch norm that reads its block sum: the next stage's first one, at the
    end the final one. Signs of a block sum mean nothing; signs of that tensor say which units the next layer sees. So
    relu(preactivation) is the map in the last stage only, elsewhere it is what the next stage's convolution reads.

    Args:
        n: blocks a stage.
        factor: width of the stages, in multiples of 16, 32, 64; the stem is 16 wide whatever the factor.
        n_classes, in_channels: of the data.
    """

    def __init__(self, n: int, factor: int, n_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stage_channels = (16 * factor, 32 * factor, 64 * factor)
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.stages = nn.ModuleList()
        for i, (c_in, c_out) in enumerate(zip((16, *self.stage_channels), self.stage_channels, strict=False)):
            first = PreActivationBlock(c_in, c_out, stride=1 if i == 0 else 2)
            self.stages.append(Stage(first, *(PreActivationBlock(c_out, c_out, stride=1) for _ in range(n - 1))))
        self.bn = nn.BatchNorm2d(self.stage_channels[-1])
        self.classifier = nn.Linear(self.stage_channels[-1], n_classes)
        initialise(self)

    def enter(self, x: Tensor) -> Tensor:
        return self.stem(x)

    def forward_from(self, x: Tensor, stage: int) -> Outputs:
        """As in `Network`; `x` is a block sum, and for the classifier only, the last map."""
        check_stage(stage, len(self.stages))
        norms = [*(part[0].bn for part in self.stages), self.bn]
        maps: list[Tensor] = []
        preactivations: list[Tensor] = []
        a = None
        for i in range(stage, len(self.stages)):
            x = self.stages[i](x, a)
            z = norms[i + 1](x)
            a = F.relu(z, inplace=not self.keep_preactivations)
            maps.append(x)
            if self.keep_preactivations:
                preactivations.append(z)
        if a is not None:
            maps[-1] = x = a
        return read_out(x, self.classifier, maps, preactivations)


def wide_resnet(depth: int, factor: int, *, n_classes: int, in_channels: int) -> WideResNet:
    """`wrn-16-2`."""
    n = blocks_per_stage(f"wrn-{{}}-{factor}", depth, layers_outside=4)
    return WideResNet(n, factor, n_classes, in_channels)
