"""What networks return and what the sizes are called.

B samples in a batch, C classes, D features of the pooled embedding, H x W pixels of a map, L tokens of a text, N samples in a
data set.
"""

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """Everything a method may want to match, from one forward pass.

    Attributes:
        logits: [B, C], float32, before any temperature.
        embedding: [B, D], float32, the pooled features that the classifier reads.
        maps: one [B, channels, H, W] tensor a stage, after the stage's last activation; of a transformer, its hidden states
            [B, L, D]: the embedding layer's, then one a layer. A token's state is all 0 where it is padding, and only there.
        preactivations: the same maps before that activation (of a wide ResNet's first two stages: what the batch norm after
            the map gives); only from a network whose `keep_preactivations` is True.
        attentions: of a transformer, [B, heads, L, L] scores a layer, before their softmax, 0 where query or key is padding; only
            from a network whose `keep_attentions` is True.
    """

    logits: Tensor
    embedding: Tensor
    maps: tuple[Tensor, ...] = ()
    preactivations: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()


def real_tokens(h: Tensor) -> Tensor:
    """Which tokens [B, L] of hidden states [B, L, D] are not padding."""
    return (h != 0).any(2)


class Batch(NamedTuple):
    """One training batch.

    Attributes:
        index: [B], positions in the training set (what memories and caches are addressed by).
        x: [B, channels, H, W], normalised float32; of texts [B, L], int64 token ids.
        y: [B], int64 labels; float32 where they are numbers to predict (a regression).
        seed: of everything random that a method draws in this step; a function of the run's seed, epoch and step.
    """

    index: Tensor
    x: Tensor
    y: Tensor
    seed: int = 0


class Pair(NamedTuple):
    """A student and a teacher as a method meets them before training, to fit its own layers to their sizes.

    Attributes:
        names: of the student and of the teacher, for messages.
        student, teacher: outputs of both (evaluation mode, no gradients, float32) for the same training images; the
            teacher's is None in a run without one.
        n_train: size of the training set.
        image_size: height and width of the images, in pixels.
    """

    names: tuple[str, str]
    student: Outputs
    teacher: Outputs | None
    n_train: int
    image_size: tuple[int, int]
