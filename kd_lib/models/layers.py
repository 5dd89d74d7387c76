"""What the families share: a convolution with its batch norm, stages, the way through them, read-out, initialisation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kd_lib.shapes import Outputs


class ConvBN(nn.Module):
    """A square convolution that keeps H x W (up to its stride), and the batch norm that reads nothing else.

    The result is a fresh tensor that no backward pass needs, so the caller may change it in place.

    Args:
        c_in, c_out: channels.
        kernel: odd side of the kernel, in pixels.
        stride: 1 keeps the size, 2 halves it (rounding up).
        groups: of channels that do not mix; c_in of them make a depthwise convolution.
        bias: whether the convolution has one; the batch norm makes it redundant, VGG counts it all the same.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 3, *, stride: int = 1, groups: int = 1, bias: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def fold(self) -> None:
        """Become one convolution; in evaluation mode only."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv, self.bn = fuse_conv_bn_eval(self.conv, self.bn), nn.Identity()


class Block(nn.Module):
    """relu(preactivation(x)): a family says what comes before the ReLU."""

    def preactivation(self, x: Tensor) -> Tensor:
        """A fresh tensor that no backward pass needs, so that the ReLU may change it in place."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.preactivation(x), inplace=True)


class Stage(nn.Sequential):
    """Blocks one after another; its map is what the last one's ReLU returns."""

    def preactivation(self, x: Tensor) -> Tensor:
        """What that last ReLU reads."""
        *blocks, last = self
        for block in blocks:
            x = block(x)
        return last.preactivation(x)


class Network(nn.Module):
    """A stem, stages with one map each, the average over the last map's pixels, and a linear classifier.

    Attributes:
        stages: one module a stage, with `forward` and `preactivation`.
        stage_channels: of each map.
        classifier: reads the pooled last map.
        keep_preactivations: whether `Outputs.preactivations` is filled: for each map, the tensor whose ReLU it is. That
            takes the memory of one more tensor a stage, so it is off until somebody asks.
    """

    keep_preactivations = False
    stages: nn.ModuleList
    stage_channels: tuple[int, ...]
    classifier: nn.Linear

    def enter(self, x: Tensor) -> Tensor:
        """What the first stage reads: the stem's output."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Outputs:
        return self.forward_from(self.enter(x), 0)

    def forward_from(self, x: Tensor, stage: int) -> Outputs:
        """Go on in the middle: `forward_from(maps[i], i + 1)` ends as the pass that `maps[i]` is from.

        Args:
            x: what that stage reads: the map of the stage before it, or the stem's output; left unchanged.
            stage: the first stage to run, from 0 to the number of stages; that number itself runs the classifier only.
        Returns:
            Logits and embedding; maps and preactivations of the stages that ran.
        Raises:
            ValueError: no such stage.
        """
        check_stage(stage, len(self.stages))
        maps: list[Tensor] = []
        preactivations: list[Tensor] = []
        for part in list(self.stages)[stage:]:
            if self.keep_preactivations:
                preactivations.append(part.preactivation(x))
                x = F.relu(preactivations[-1])
            else:
                x = part(x)
            maps.append(x)
        return read_out(x, self.classifier, maps, preactivations)


def check_stage(stage: int, n_stages: int) -> None:
    """Raises ValueError for a stage that `forward_from` cannot start with."""
    if not 0 <= stage <= n_stages:
        raise ValueError(
            f"forward_from: no stage {stage} in a network of {n_stages} stages. Allowed: 0 (the whole network after its "
            f"stem) to {n_stages} (its classifier only)."
        )


def read_out(
    x: Tensor, classifier: nn.Linear, maps: Sequence[Tensor] = (), preactivations: Sequence[Tensor] = ()
) -> Outputs:
    """Average a map over its pixels and classify, both in float32 whatever autocast says.

    Losses divide logits by a temperature and subtract them; bfloat16's 8 bits are too few for that.

    Args:
        x: the last map, [B, channels, H, W].
        classifier: a float32 layer that reads its channels.
        maps, preactivations: handed on.
    """
    with torch.autocast(x.device.type, enabled=False):
        embedding = x.mean((2, 3), dtype=torch.float32)
        return Outputs(classifier(embedding), embedding, tuple(maps), tuple(preactivations))


def initialise(model: nn.Module) -> None:
    """CRD's protocol: Kaiming-normal convolutions, batch norms that start as the identity.

    Convolutions: fan-out (outputs that one input reaches, so those of its own group), ReLU gain, biases 0.
    Batch norms: weight 1, bias 0. Linear layers: torch's default.
    Random numbers come from torch's global generator: the same `torch.manual_seed` gives the same weights.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.groups > 1:  # torch counts the outputs of all groups
                with torch.no_grad():
                    module.weight *= module.groups**0.5
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


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
