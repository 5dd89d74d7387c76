"""Predictions compared by their correlation instead of a divergence."""

from torch import Tensor
from torch.nn import functional as F

from kd_lib.losses.logits import Logits, Scalar, check_logits, check_positive, wide

SMALLEST_NORM = 1e-8


def dist(z_s: Logits, z_t: Logits, *, tau: float = 4.0) -> Scalar:
    r"""DIST: the student keeps the relations between a sample's classes, and between a class's samples.

    .. math:: \tau^2 \left[1 - \frac{1}{B} \sum_b \rho(p^s_{b \cdot}, p^t_{b \cdot})\right]
              + \tau^2 \left[1 - \frac{1}{C} \sum_c \rho(p^s_{\cdot c}, p^t_{\cdot c})\right], \quad
              p = \mathrm{softmax}(z / \tau),\ \rho \text{ Pearson's correlation}

    Source: Huang et al., NeurIPS 2022 (arXiv 2205.10536); the factor tau squared as in the authors' code.
    The paper leaves open: a row or column without any spread. Its correlation is 0 here, so a class that neither side
    ever predicts in the batch adds tau^2 / C without a gradient.
    Args:
        z_s, z_t: logits of student and teacher [B, C]. The caller detaches what must not move.
        tau: temperature > 0 of both sides.
    Returns:
        Between 0 (perfectly correlated) and 4 tau^2; the first part averaged over the batch, the second over the
        classes. The second relates the samples of a batch, so its value changes when the batch is split.
    Raises:
        ValueError: logits that are not two [B, C] tensors of one shape; a temperature that is not positive.
    """
    check_logits(z_s, z_t)
    check_positive("tau", tau)
    p_s, p_t = ((wide(z) / tau).softmax(dim=1) for z in (z_s, z_t))
    inter = 1 - _pearson(p_s, p_t).mean()
    intra = 1 - _pearson(p_s.T, p_t.T).mean()
    return tau**2 * (inter + intra)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each row of `a` with that row of `b`; of rows with a spread below 1e-8, less, and 0 in the end."""
    a, b = (F.normalize(x - x.mean(dim=1, keepdim=True), dim=1, eps=SMALLEST_NORM) for x in (a, b))
    return (a * b).sum(dim=1)
