"""Losses and targets of networks that learn from each other.

`members` are the logits of all networks of a group for one batch, [B, C] each. What comes out is a target, so the caller
hands in detached logits; gradients would flow, but mean nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_lib.losses.logits import Logits, Scalar, Temperature, kd

BISECTIONS = 24  # the last interval is 2^-24 wide, the resolution of float32 at 1
SWEEPS = 20  # over all pairs of members; two members need one
RIDGE = 1e-4  # relative to the mean of the diagonal; float32 solves no closer to singular than that


def dml(z_s: Logits, z_peers: Sequence[Logits], *, tau: Temperature = 1.0) -> Scalar:
    r"""Mutual learning: a network's mean divergence from its peers.

    .. math:: \frac{1}{K - 1} \sum_{j \ne i} \tau^2 KL(p_j \| p_i)

    Source: Zhang et al. 2018 (tau = 1).
    Args:
        z_s: logits [B, C] of the network that learns, i.
        z_peers: of the K - 1 others, at least one. The caller detaches them.
        tau: temperature > 0 of all of them.
    Returns:
        Nats times tau squared, summed over classes, averaged over the batch and the peers.
    Raises:
        ValueError: no peer; logits as in `soft_kl`.
    """
    if not z_peers:
        raise ValueError("mutual learning needs the logits of at least one peer.")
    return torch.stack([kd(z_s, z, tau=tau) for z in z_peers]).mean()


def kdcl_naive(members: Sequence[Logits], y: Tensor) -> Logits:
    r"""For each sample the logits of the member that is best at it.

    .. math:: z_t = z_k, \quad k = \arg\min_i CE(z_i, y)

    Source: Guo et al. 2020, "KDCL-Naive".
    Args:
        members: logits of each network, [B, C].
        y: labels [B].
    Returns:
        Logits [B, C]; the first of several equally good members.
    Raises:
        ValueError: fewer than two members, or members of different shapes (so for all the targets of this file).
    """
    z = _stack(members)
    ce = torch.stack([F.cross_entropy(member, y, reduction="none") for member in z])
    return z[ce.argmin(0), torch.arange(z.shape[1], device=z.device)]


def kdcl_linear(members: Sequence[Logits], y: Tensor) -> Logits:
    r"""For each sample the convex combination of the members' logits with the least cross-entropy.

    .. math:: z_t = \sum_i \alpha_i z_i, \quad
              \alpha = \arg\min_\alpha CE\Big(\sum_i \alpha_i z_i, y\Big), \quad \sum_i \alpha_i = 1,\ \alpha_i \ge 0

    Source: Guo et al. 2020, "KDCL-Linear". The problem is convex. Weight is moved between two members at a time, to where
    the derivative of the cross-entropy, sum_c p_c d_c - d_y with d = z_i - z_j, changes its sign (found by bisection); with two
    members that is the solution, with more every pair gets its turn `SWEEPS` times.
    Args:
        members, y: as for `kdcl_naive`.
    Returns:
        Logits [B, C]. Never worse than `kdcl_naive`, whose choice is one of the combinations.
    """
    z = _stack(members)
    m, b, _ = z.shape
    weights = z.new_zeros(m, b, 1)
    weights[0] = 1.0
    pairs = [(i, j) for i in range(m) for j in range(i + 1, m)]
    for i, j in pairs * (1 if m == 2 else SWEEPS):
        both = weights[i] + weights[j]
        difference = z[i] - z[j]
        without = (weights * z).sum(0) - weights[i] * difference  # all the weight of the two on j
        share = _best_share(without, both * difference, y)
        weights[i], weights[j] = share * both, (1 - share) * both
    return (weights * z).sum(0)


def _best_share(z: Tensor, d: Tensor, y: Tensor) -> Tensor:
    """[B, 1]: the s in 0..1 at which CE(z + s d, y) is least."""
    low, high = z.new_zeros(len(z), 1), z.new_ones(len(z), 1)
    d_y = d.gather(1, y[:, None])
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        slope = (F.softmax(z + middle * d, dim=1) * d).sum(1, keepdim=True) - d_y
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return (low + high) / 2


def kdcl_minlogit(members: Sequence[Logits], y: Tensor) -> Logits:
    r"""The least lead that any member leaves each wrong class over the right one.

    .. math:: z_{t,c} = \min_i (z_{i,c} - z_{i,y})

    Source: Guo et al. 2020, "KDCL-MinLogit". Shifted so that the right class has logit 0, the cross-entropy is
    log(sum_c exp z_c), which falls with every logit: the minimum of each is a cheap, closed stand-in for `kdcl_linear`.
    Args:
        members, y: as for `kdcl_naive`.
    Returns:
        Logits [B, C], 0 at the right class. Its cross-entropy is at most that of any member, and of any convex combination.
    """
    z = _stack(members)
    right = y[None, :, None].expand(len(z), -1, 1)
    return (z - z.gather(2, right)).amin(0)


def kdcl_general(members: Sequence[Logits], y: Tensor) -> Logits:
    r"""The combination of the members' logits whose errors cancel best.

    .. math:: z_t = \sum_i w_i z_i, \quad w = \frac{C^{-1} 1}{1^\top C^{-1} 1}

    Source: Guo et al. 2020, "KDCL-General", after Perrone and Cooper 1993; C from `error_covariance`, w from
    `least_error_weights`.
    Differs from the paper: it measures C on held-out images after each epoch. Here C comes from the batch itself, which needs
    no further images; the weights are K - 1 numbers and C averages over B x C errors, so little can be fitted to the batch.
    Args:
        members, y: as for `kdcl_naive`.
    Returns:
        Logits [B, C]; all samples of the batch have the same weights, so it must not be split over devices.
    """
    weights = least_error_weights(error_covariance(members, y))
    return torch.einsum("m,mbc->bc", weights, _stack(members))


def error_covariance(members: Sequence[Logits], y: Tensor) -> Tensor:
    r"""How alike the members' errors are.

    .. math:: C_{ij} = \frac{1}{B} \sum_b \sum_c (p^i_{bc} - [c = y_b]) (p^j_{bc} - [c = y_b])

    Args:
        members, y: as for `kdcl_naive`.
    Returns:
        [K, K], the diagonal being each member's Brier score. Errors are not centred: a common error cancels in no combination.
    """
    z = _stack(members)
    errors = F.softmax(z, dim=2) - F.one_hot(y, z.shape[2])
    return torch.einsum("ibc,jbc->ij", errors, errors) / z.shape[1]


def least_error_weights(covariance: Tensor) -> Tensor:
    r"""Weights that sum to one with the least expected squared error.

    .. math:: \min_w w^\top C w,\ 1^\top w = 1: \quad
              \nabla_w (w^\top C w - 2 \lambda (1^\top w - 1)) = 0 \Rightarrow C w = \lambda 1
              \Rightarrow w = \frac{C^{-1} 1}{1^\top C^{-1} 1}

    because the error of sum_i w_i p_i is sum_i w_i e_i wherever the weights sum to one. Weights may be negative: a
    member whose errors are those of a better one, enlarged, is worth subtracting.

    Args:
        covariance: C, [K, K], symmetric, positive semi-definite.
    Returns:
        [K]. `RIDGE` times the mean diagonal is added to the diagonal, so members that err alike share their weight evenly.
    """
    k = len(covariance)
    ones = covariance.new_ones(k)
    ridge = RIDGE * covariance.diagonal().mean() + torch.finfo(covariance.dtype).tiny
    raw = torch.linalg.solve(covariance / ridge + torch.diag(ones), ones)
    return raw / raw.sum()


def _stack(members: Sequence[Logits]) -> Tensor:
    if len(members) < 2 or len({m.shape for m in members}) > 1 or members[0].ndim != 2:
        raise ValueError(
            f"an ensemble needs two or more [B, C] logits of one shape, got {[list(m.shape) for m in members]}."
        )
    return torch.stack([m.float() if m.dtype in (torch.float16, torch.bfloat16) else m for m in members])
