"""Factor transfer: the distance of two networks' factors, compressed maps of one shape."""

from torch import Tensor
from torch.nn import functional as F

from kd_lib.losses.logits import Scalar, wide


def ft(factor_s: Tensor, factor_t: Tensor, *, p: int = 1) -> Scalar:
    r"""Distance of two factors, each divided by its length.

    .. math:: \frac{1}{BD} \sum_b \sum_d \left| \frac{a_{bd}}{\|a_b\|_2} - \frac{b_{bd}}{\|b_b\|_2} \right|^p

    where a and b are the factors of student and teacher, a vector of D = CHW numbers for each sample.

    Source: Kim et al. 2018, section 3.2.
    Differs from the paper: it prints the p-norm, a sum over D. The weights in use (the authors' own 500, CRD's 200) belong to
    the mean; with the sum they would be thousands of times too large, and would depend on the networks' sizes.
    Args:
        factor_s, factor_t: [B, C, H, W] of one shape.
        p: power >= 1; the paper uses 1.
    Returns:
        Mean over all entries and the batch.
    Raises:
        ValueError: factors of two shapes; a power below 1.
    """
    if factor_s.shape != factor_t.shape:
        raise ValueError(
            f"factors must be of one shape, got student {list(factor_s.shape)} and teacher {list(factor_t.shape)}."
        )
    if p < 1:
        raise ValueError(f"p must be at least 1, got {p}.")
    difference = _direction(factor_s) - _direction(factor_t)
    return difference.abs().pow(p).mean()


def _direction(factor: Tensor) -> Tensor:
    """[B, D], each row of length 1; computed in at least float32."""
    return F.normalize(wide(factor).flatten(1), dim=1)
