"""Losses between transformers: states and scores of a student's layers against those of the teacher's layers they meet.

Hidden states and scores are 0 where there is padding, and nothing here changes when a batch is padded further.
"""

from typing import TypeAlias

from torch import Tensor

from kd_lib.losses.features import unit
from kd_lib.losses.logits import Scalar, wide

States: TypeAlias = Tensor
"""[B, L, D]: a layer's output, a state a token."""
Scores: TypeAlias = Tensor
"""[B, heads, L, L]: a layer's attention before its softmax, a query a row."""


def pkd(h_s: Tensor, h_t: Tensor) -> Scalar:
    r"""Patient distillation: the first token's states of several layers, each divided by its length.

    .. math:: \frac{1}{B M D} \sum_{b=1}^B \sum_{m=1}^M
              \left\| \frac{h^s_{bm}}{\|h^s_{bm}\|_2} - \frac{h^t_{bm}}{\|h^t_{bm}\|_2} \right\|_2^2

    Source: patient knowledge distillation (Sun et al. 2019), section 3.2, L_PT; PESF-KD v2 Eq. 8.
    Differs from the paper: it prints the sum over samples and layers of squared distances. Here the mean over both and over the D
    dimensions, which is what a weight of 100 belongs to: the sum over BERT's 768 dimensions would be 768 times as strong.
    Args:
        h_s, h_t: states [B, M, D] of the first token after M layers of each network.
    Returns:
        The mean over batch, layers and dimensions, in 0..4/D. A state that is all 0 has no direction and counts as 0.
    Raises:
        ValueError: two different shapes, or not [B, M, D].
    """
    _check("pkd", h_s, h_t, 3)
    return (unit(wide(h_s), dim=2) - unit(wide(h_t), dim=2)).square().mean()


def tinybert_attention(a_s: Scores, a_t: Scores, real: Tensor) -> Scalar:
    r"""The student's attention scores, head by head, against the teacher's.

    .. math:: \frac{1}{B} \sum_b \frac{1}{h \, l_b^2} \sum_{i=1}^h \sum_{q, k \le l_b} (A^s_{biqk} - A^t_{biqk})^2

    Source: TinyBERT (Jiao et al. 2020) Eq. 7; scores before the softmax, which it finds better than probabilities.
    The paper leaves open: padding. Here a text of l tokens has l x l scores, so that padding changes nothing, and every text counts
    the same.
    Args:
        a_s, a_t: scores of as many heads in both.
        real: [B, L], True for tokens that are not padding; at least one in each text.
    Returns:
        The mean over heads and pairs of tokens, averaged over the batch.
    Raises:
        ValueError: two different shapes; as many heads are needed in both.
    """
    _check("tinybert_attention", a_s, a_t, 4)
    error = (wide(a_s) - wide(a_t)).square().mean(1)
    n = real.sum(1)
    return ((error * (real[:, :, None] & real[:, None, :])).sum((1, 2)) / n.square()).mean()


def tinybert_hidden(r_s: States, h_t: States, real: Tensor) -> Scalar:
    r"""Squared distance between the teacher's states and what a linear map makes of the student's.

    .. math:: \frac{1}{B} \sum_b \frac{1}{l_b D} \sum_{k \le l_b} \| h^s_{bk} W - h^t_{bk} \|_2^2

    Source: TinyBERT (Jiao et al. 2020) Eq. 8 for hidden states, Eq. 9 for the output of the embedding layer.
    The paper leaves open: padding; as in `tinybert_attention`.
    Args:
        r_s: the student's states after the map, [B, L, D].
        h_t: the teacher's, of the same shape.
        real: [B, L], True for tokens that are not padding; at least one in each text.
    Returns:
        The mean over tokens and dimensions, averaged over the batch.
    Raises:
        ValueError: two different shapes.
    """
    _check("tinybert_hidden", r_s, h_t, 3)
    error = (wide(r_s) - wide(h_t)).square().mean(2)
    return ((error * real).sum(1) / real.sum(1)).mean()


def _check(name: str, of_student: Tensor, of_teacher: Tensor, axes: int) -> None:
    # Shapes that differ could broadcast without a word.
    if of_student.ndim != axes or of_student.shape != of_teacher.shape:
        raise ValueError(
            f"{name} needs two tensors of one shape with {axes} axes, got student {list(of_student.shape)} and teacher "
            f"{list(of_teacher.shape)}."
        )
