"""What networks return and what the sizes are called.

B samples in a batch, C classes, D features of the pooled embedding, H x W pixels of a map, N samples in a data set.
"""

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """Everything a method may want to match, from one forward pass.

    Attributes:
        logits: [B, C], float32, before any temperature.
        embedding: [B, D], float32, the pooled features that the classifier reads.
        maps: one [B, channels, H, W] tensor a stage, after the stage's last activation.
    """

    logits: Tensor
    embedding: Tensor
    maps: tuple[Tensor, ...] = ()


class Batch(NamedTuple):
    """One training batch.

    Attributes:
        index: [B], positions in the training set (what memories and caches are addressed by).
        x: [B, channels, H, W], normalised float32.
        y: [B], int64 labels.
    """

    index: Tensor
    x: Tensor
    y: Tensor
