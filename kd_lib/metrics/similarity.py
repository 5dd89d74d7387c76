"""How alike two representations are inside, and how tight a representation's clusters are."""

import torch
from torch import Tensor

from kd_lib.metrics.inputs import Array, labels, matrix


def linear_cka(x: Array, y: Array) -> float:
    r"""Linear centred kernel alignment of two representations of the same samples.

    .. math:: \frac{\|Y^\top X\|_F^2}{\|X^\top X\|_F \, \|Y^\top Y\|_F}, \quad \text{columns of } X, Y \text{ centred}

    Source: Kornblith et al. 2019 (feature-space form); PESF v1 Figs. 7 and 8, Table 5; SFTN Table 10.
    Rotating either side or multiplying it by one number changes nothing; scaling single features does. It is biased
    upwards when samples are few for the number of features: see `linear_cka_unbiased`.
    Args:
        x, y: embeddings or logits [N, D1] and [N, D2], a row for each sample. Made for N well above D.
    Returns:
        0 to 1.
    Raises:
        ValueError: different numbers of samples; a side that is the same for all samples.
    """
    x, y = _representations(x, y)
    cross, x_own, y_own = (torch.linalg.matrix_norm(a.T @ b) for a, b in ((y, x), (x, x), (y, y)))
    return (cross.square() / (x_own * y_own)).item()


def linear_cka_unbiased(x: Array, y: Array, *, batch_size: int = 256, seed: int = 0) -> float:
    r"""Linear CKA from unbiased minibatch estimates, comparable across sample sizes and widths.

    .. math:: \frac{\sum_i \mathrm{HSIC}_1(K_i, L_i)}{\sqrt{\sum_i \mathrm{HSIC}_1(K_i, K_i)}
              \sqrt{\sum_i \mathrm{HSIC}_1(L_i, L_i)}}, \quad K_i = X_i X_i^\top,\ L_i = Y_i Y_i^\top

    .. math:: \mathrm{HSIC}_1(K, L) = \frac{1}{n (n - 3)} \left[ \mathrm{tr}(\tilde K \tilde L)
              + \frac{1^\top \tilde K 1 \; 1^\top \tilde L 1}{(n - 1)(n - 2)}
              - \frac{2}{n - 2} 1^\top \tilde K \tilde L 1 \right]

    where the tilde sets the diagonal to zero.

    Source: Nguyen et al. 2021 (minibatch CKA); HSIC_1 of Song et al. 2012.
    Differs from the paper: one pass over the samples, in batches whose sizes differ by at most one, none left out.
    Args:
        x, y: embeddings or logits [N, D1] and [N, D2], a row for each sample, in the same order.
        batch_size: least number of samples in a batch, at least 4; where N is below twice that, there is one batch.
        seed: of the shuffle into batches, without which data sorted by class would fill each batch with one class.
    Returns:
        At most about 1; around 0, on either side, for independent representations.
    Raises:
        ValueError: a batch below 4 samples; different numbers of samples; a side that is the same for all samples, or
            whose HSIC_1 with itself is zero.
    """
    x, y = _representations(x, y)
    n = len(x)
    if batch_size < 4 or n < 4:
        raise ValueError(f"HSIC_1 needs batches of at least 4 samples, got batch_size {batch_size} for {n} samples.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    sums, sizes = torch.zeros(3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for rows in order.tensor_split(max(1, n // batch_size)):
        gram_x, gram_y = (_gram(side[rows]) for side in (x, y))
        sums += torch.stack([_hsic_1(gram_x, gram_y), _hsic_1(gram_x, gram_x), _hsic_1(gram_y, gram_y)])
        sizes += torch.stack([gram_x.square().sum(), gram_y.square().sum()]) / len(rows) ** 2
    for name, own, size in zip("xy", sums[1:], sizes, strict=True):
        # Zero up to rounding where any two samples are as far apart as any other two, or where all but one coincide.
        if own <= 1e-12 * size:
            raise ValueError(f"{name} has no structure among its {n} samples: its HSIC_1 with itself is zero.")
    return (sums[0] / sums[1:].prod().sqrt()).item()


def within_between_scatter(embedding: Array, y: Array) -> float:
    r"""How tight the classes lie in a representation: their inner spread over the spread of their centres.

    .. math:: \frac{\mathrm{tr}\, S_w}{\mathrm{tr}\, S_b}
              = \frac{\sum_n \|h_n - \mu_{y_n}\|^2}{\sum_c n_c \|\mu_c - \mu\|^2}

    Source: Fisher's discriminant analysis; the number behind "clusters are tighter" in PESF v1 Fig. 9, in the space
    itself instead of a t-SNE picture.
    Args:
        embedding: [N, D].
        y: labels [N]; only classes that occur count.
    Returns:
        At least 0, smaller for tighter clusters; unchanged by rotation, shift and a common factor.
    Raises:
        ValueError: labels that do not fit; class centres that all coincide, as a single class's does.
    """
    h = matrix("embedding", embedding)
    _, group = labels(y, len(h)).unique(return_inverse=True)
    counts = torch.bincount(group)
    centres = torch.zeros(len(counts), h.shape[1], dtype=h.dtype).index_add(0, group, h) / counts[:, None]
    within = (h - centres[group]).square().sum()
    between = (counts[:, None] * (centres - h.mean(dim=0)).square()).sum()
    if between <= 1e-24 * h.square().sum():
        raise ValueError(f"the centres of the {len(counts)} classes coincide, so nothing lies between them.")
    return (within / between).item()


def _representations(x: Array, y: Array) -> tuple[Tensor, Tensor]:
    x, y = matrix("x", x), matrix("y", y)
    if len(x) != len(y):
        raise ValueError(f"x and y must hold the same samples, got {len(x)} and {len(y)}.")
    return _centred("x", x), _centred("y", y)


def _centred(name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=0)
    # Rounding leaves about 1e-16 of a constant; its direction is noise, not a representation.
    if torch.linalg.matrix_norm(centred) <= 1e-12 * torch.linalg.matrix_norm(x):
        raise ValueError(f"{name} is the same for all {len(x)} samples, so it resembles nothing.")
    return centred


def _gram(x: Tensor) -> Tensor:
    return (x @ x.T).fill_diagonal_(0)


def _hsic_1(gram_x: Tensor, gram_y: Tensor) -> Tensor:
    """HSIC_1 of two Gram matrices whose diagonals are already zero."""
    n = len(gram_x)
    sums_x, sums_y = gram_x.sum(dim=1), gram_y.sum(dim=1)
    both = sums_x.sum() * sums_y.sum() / ((n - 1) * (n - 2))
    return ((gram_x * gram_y).sum() + both - 2 / (n - 2) * (sums_x @ sums_y)) / (n * (n - 3))
