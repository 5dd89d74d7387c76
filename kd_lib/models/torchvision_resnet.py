"""torchvision's ResNets, for large images: torchvision-resnet18, 34, 50, 101, 152; fresh, or with published weights.

"torchvision-resnet50" is fresh; "torchvision-resnet50-imagenet1k" has torchvision's `IMAGENET1K_V1` weights, those of
the recipe that the papers' ImageNet tables follow (METHODS section 0), downloaded when the network is built.
"""

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kd_lib import torchvision_shim
from kd_lib.errors import unknown
from kd_lib.models.staged import Staged

DEPTHS = (18, 34, 50, 101, 152)
STAGES = ("layer1", "layer2", "layer3", "layer4")
PUBLISHED = "IMAGENET1K_V1"
PUBLISHED_CLASSES = 1000


class TorchvisionResNet(Staged):
    """Maps of the four stages, their pooled embedding and its logits. A stage's preactivation is its last block's sum.

    Args:
        network: a torchvision ResNet.
    """

    def __init__(self, network: nn.Module) -> None:
        ends = [f"{name}.{len(network.get_submodule(name)) - 1}.relu" for name in STAGES]
        super().__init__(network, stages=STAGES, classifier="fc", preactivations=ends)

    def run_from(self, x: Tensor, stage: int) -> Any:
        for part in list(self.stages)[stage:]:
            x = part(x)
        return self.network.fc(torch.flatten(self.network.avgpool(x), 1))

    def fold(self) -> None:
        """Put each batch norm into its convolution; in evaluation mode only.

        torchvision's blocks call conv1, bn1, conv2, bn2 ... in this order, and a shortcut is a sequence of the two.
        """
        for module in self.network.modules():
            pairs = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3) if hasattr(module, f"conv{i}")]
            if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[0], nn.Conv2d):
                pairs = [("0", "1")]
            for conv, bn in pairs:
                if isinstance(norm := getattr(module, bn), nn.BatchNorm2d):
                    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), norm))
                    setattr(module, bn, nn.Identity())


def resnet(depth: int, *, n_classes: int, in_channels: int) -> TorchvisionResNet:
    """`torchvision-resnet18`: torchvision's own initialisation; for other than 3 channels, a first convolution that reads them."""
    _check_depth(depth)
    network = getattr(_torchvision_models(), f"resnet{depth}")(weights=None, num_classes=n_classes)
    if in_channels != 3:
        first = network.conv1
        network.conv1 = nn.Conv2d(in_channels, first.out_channels, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return TorchvisionResNet(network)


def resnet_imagenet1k(depth: int, *, n_classes: int, in_channels: int) -> TorchvisionResNet:
    """`torchvision-resnet18-imagenet1k`: with published weights, so for ImageNet's classes in colour only."""
    _check_depth(depth)
    if (n_classes, in_channels) != (PUBLISHED_CLASSES, 3):
        raise ValueError(
            f"'torchvision-resnet{depth}-imagenet1k' has weights for {PUBLISHED_CLASSES} classes and 3 channels, not for "
            f"{n_classes} and {in_channels}. Without weights: 'torchvision-resnet{depth}'."
        )
    network = resnet(depth, n_classes=n_classes, in_channels=in_channels)
    network.network.load_state_dict(published_weights(depth))
    return network


def published_weights(depth: int) -> dict[str, Tensor]:
    """torchvision's weights, from its cache or, the first time, its server; their checksum is verified."""
    weights = getattr(_torchvision_models(), f"ResNet{depth}_Weights")[PUBLISHED]
    return weights.get_state_dict(progress=False, check_hash=True)


def _check_depth(depth: int) -> None:
    if depth not in DEPTHS:
        raise unknown("network", f"torchvision-resnet{depth}", [f"torchvision-resnet{known}" for known in DEPTHS])


def _torchvision_models() -> ModuleType:
    """Imported when the first such network is asked for: it takes longer than everything else a run imports."""
    torchvision_shim.repair()
    return importlib.import_module("torchvision.models")
