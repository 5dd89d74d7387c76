"""VGG with batch norm for small images: vgg8 and vgg13.

Five stages of 3x3 convolutions with 64, 128, 256, 512, 512 channels; max pooling by 2 after each of the first three,
none between the last two (32, 16, 8, 4, 4 pixels for 32x32 images), then a global average and one linear layer.
Source: Simonyan and Zisserman 2015, in the form CRD uses; convolutions keep their biases.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from kd_lib.errors import unknown
from kd_lib.models.layers import ConvBN, Network, initialise

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS_PER_STAGE = {8: 1, 13: 2}
SMALLEST = 8


class Stage(nn.Sequential):
    """Max pooling where the stage begins with it, then ConvBN and ReLU, repeated; the first one changes the channels."""

    def __init__(self, c_in: int, c_out: int, convolutions: int, *, pools: bool) -> None:
        super().__init__(*(ConvBN(c_in if i == 0 else c_out, c_out, bias=True) for i in range(convolutions)))
        self.pools = pools

    def preactivation(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(x, 2) if self.pools else x
        *layers, last = self
        for layer in layers:
            x = F.relu(layer(x), inplace=True)
        return last(x)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.preactivation(x), inplace=True)


class VGG(Network):
    """Maps of the five stages (after their last ReLU, before pooling), the pooled embedding and its logits.

    A stage's preactivation is its last batch norm's output. There is no stem: `forward_from(x, 0)` begins with images.

    Args:
        convolutions: in each stage.
        n_classes, in_channels: of the data.
    """

    def __init__(self, convolutions: int, n_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stage_channels = WIDTHS
        ends = zip((in_channels, *WIDTHS), WIDTHS, strict=False)
        self.stages = nn.ModuleList(
            Stage(c_in, c_out, convolutions, pools=1 <= i <= 3) for i, (c_in, c_out) in enumerate(ends)
        )
        self.classifier = nn.Linear(WIDTHS[-1], n_classes)
        initialise(self)

    def enter(self, x: Tensor) -> Tensor:
        """Raises ValueError where an image is too small to be halved three times."""
        if min(x.shape[2:]) < SMALLEST:
            raise ValueError(
                f"images of {x.shape[2]}x{x.shape[3]} are too small for a VGG: at least {SMALLEST} pixels a side."
            )
        return x


def vgg(depth: int, *, n_classes: int, in_channels: int) -> VGG:
    """`vgg8`, `vgg13`: the depth counts the convolutions and the three linear layers of the original, here one."""
    if depth not in CONVOLUTIONS_PER_STAGE:
        raise unknown("network", f"vgg{depth}", [f"vgg{known}" for known in CONVOLUTIONS_PER_STAGE])
    return VGG(CONVOLUTIONS_PER_STAGE[depth], n_classes, in_channels)
