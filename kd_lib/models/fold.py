"""Folding: a frozen network's batch norm is a fixed affine map per channel, so the convolution before it can absorb it,

    BN(W * x + b) = W' * x + b',   W' = W gamma / sqrt(var + eps),   b' = (b - mean) gamma / sqrt(var + eps) + beta

which saves one pass over every map. A family writes `ConvBN` where a batch norm directly follows a convolution, and
needs no folding code of its own; torchvision's networks say which of their layers follow each other.
"""

import copy

from torch import nn

from kd_lib.models.layers import ConvBN
from kd_lib.models.torchvision_resnet import TorchvisionResNet


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A frozen copy for inference in which a convolution and its batch norm are one convolution.

    A batch norm that does not directly follow a convolution (the pre-activation ones of a wide ResNet) stays as it is,
    and so does every one of a network of one's own that is not in a `ConvBN`.

    Args:
        model: any network; left untouched, training mode included.
    Returns:
        A deep copy in eval mode with no trainable parameter; its outputs equal `model.eval()`'s up to rounding.
    """
    folded = copy.deepcopy(model).eval()
    for module in list(folded.modules()):
        if isinstance(module, ConvBN | TorchvisionResNet):
            module.fold()
    return folded.requires_grad_(False)
