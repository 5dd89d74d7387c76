"""What the convolutional families share: a convolution with its batch norm, the read-out, initialisation; and folding.

Folding: a frozen network's batch norm is a fixed affine map per channel, so the convolution before it can absorb it,

    BN(W * x + b) = W' * x + b',   W' = W gamma / sqrt(var + eps),   b' = (b - mean) gamma / sqrt(var + eps) + beta

which saves one pass over every map. A family writes `ConvBN` where a batch norm directly follows a convolution, and
needs no folding code of its own.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kd_lib.shapes import Outputs


class ConvBN(nn.Module):
    """A square convolution that keeps H x W (up to its stride), and the batch norm that reads nothing else.

    The result is a fresh tensor that no backward pass needs, so the caller may change it in place.

    Args:
        c_in, c_out: channels.
        kernel: odd side of the kernel, in pixels.
        stride: 1 keeps the size, 2 halves it (rounding up).
        bias: whether the convolution has one; the batch norm makes it redundant, VGG counts it all the same.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, *, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=bias)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A frozen copy for inference in which every `ConvBN` is one convolution.

    A batch norm that does not directly follow a convolution (the pre-activation ones of a wide ResNet) stays as it is.

    Args:
        model: any network; left untouched, training mode included.
    Returns:
        A deep copy in eval mode with no trainable parameter; its outputs equal `model.eval()`'s up to rounding.
    """
    folded = copy.deepcopy(model).eval()
    for module in folded.modules():
        if isinstance(module, ConvBN) and isinstance(module.bn, nn.BatchNorm2d):
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()
    return folded.requires_grad_(False)


def initialise(model: nn.Module) -> None:
    """CRD's protocol: Kaiming-normal convolutions, batch norms that start as the identity.

    Convolutions: fan-out, ReLU gain, biases 0. Batch norms: weight 1, bias 0. Linear layers: torch's default.
    Random numbers come from torch's global generator: the same `torch.manual_seed` gives the same weights.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def read_out(maps: Sequence[Tensor], classifier: nn.Linear) -> Outputs:
    """Average the last map over its pixels and classify, both in float32 whatever autocast says.

    Losses divide logits by a temperature and subtract them; bfloat16's 8 bits are too few for that.

    Args:
        maps: one [B, channels, H, W] tensor a stage.
        classifier: a float32 layer that reads the last map's channels.
    """
    with torch.autocast(maps[-1].device.type, enabled=False):
        embedding = maps[-1].mean((2, 3), dtype=torch.float32)
        return Outputs(classifier(embedding), embedding, tuple(maps))


def blocks_per_stage(family: str, depth: int, *, layers_outside: int) -> int:
    """The n of a network of depth 6n + `layers_outside`: three stages, n blocks a stage, two layers a block.

    Args:
        family: its name with `{}` for the depth, to say in the error which neighbours exist.
        depth: as in the network's name.
        layers_outside: 2 for a ResNet, 4 for a wide ResNet.
    Raises:
        ValueError: no n >= 1 gives this depth.
    """
    n, rest = divmod(depth - layers_outside, 6)
    if n >= 1 and rest == 0:
        return n
    neighbours = [6 * m + layers_outside for m in ((n, n + 1) if n >= 1 else (1,))]
    nearest = " and ".join(family.format(neighbour) for neighbour in neighbours)
    raise ValueError(
        f"{family.format(depth)!r}: the depth must be 6n + {layers_outside} with n >= 1. Nearest: {nearest}."
    )
