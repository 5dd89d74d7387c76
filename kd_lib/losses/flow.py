"""Flow of the solution procedure: how the maps of one layer turn into those of a later one."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor
from torch.nn import functional as F

from kd_lib.losses.logits import Scalar, wide


def fsp_matrix(f_a: Tensor, f_b: Tensor) -> Tensor:
    r"""Inner products of two layers' channels, averaged over pixels.

    .. math:: G_{ij} = \frac{1}{hw} \sum_{s=1}^{h} \sum_{t=1}^{w} a_{ist} \, b_{jst}

    Source: Yim et al. 2017, Eq. 1; of two sizes, the larger map is max-pooled to the smaller one (its section 4).
    Args:
        f_a, f_b: maps of two layers of one network, [B, C_a, H_a, W_a] and [B, C_b, H_b, W_b].
    Returns:
        [B, C_a, C_b].
    """
    height, width = (min(sizes) for sizes in zip(f_a.shape[2:], f_b.shape[2:], strict=True))
    a, b = (F.adaptive_max_pool2d(wide(f), (height, width)).flatten(2) for f in (f_a, f_b))
    return a @ b.mT / (height * width)


def fsp(maps_s: Sequence[Tensor], maps_t: Sequence[Tensor]) -> Scalar:
    r"""Squared distance of the flows through two networks, from each layer to the next.

    .. math:: \frac{1}{B} \sum_b \sum_i \frac{1}{C_i C_{i+1}} \| G_i^t - G_i^s \|_F^2

    Source: Yim et al. 2017, Eq. 2, with every lambda_i equal, as there.
    Differs from the paper: the mean over a matrix's entries, as in CRD's tables; the paper prints the sum and trains with a
    learning rate of 1e-3. With the sum even that diverges for wide ResNets, whose maps are sums that no batch norm follows.
    Args:
        maps_s, maps_t: the same number of maps of student and teacher, in order, at least two. Paired maps have equally many
            channels; their heights and widths may differ.
    Returns:
        Mean over the entries of each matrix and over the batch, summed over the matrices.
    Raises:
        ValueError: fewer than two maps, unequally many, or paired maps of different widths.
    """
    widths_s, widths_t = ([f.shape[1] for f in maps] for maps in (maps_s, maps_t))
    if len(maps_s) < 2 or widths_s != widths_t:
        raise ValueError(
            f"fsp needs two or more maps of the same channels on both sides, got student {widths_s} and teacher {widths_t}."
        )
    flows = zip(pairwise(maps_s), pairwise(maps_t), strict=True)
    return sum((fsp_matrix(*s) - fsp_matrix(*t)).square().mean() for s, t in flows)
