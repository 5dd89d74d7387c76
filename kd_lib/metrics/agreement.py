"""How right a network is, and how alike the predictions of two are."""

import math

import torch
from torch.nn import functional as F

from kd_lib.losses import soft_kl
from kd_lib.metrics.inputs import Array, MetricTemperature, labels, matrix, matrix_pair, temperature


def accuracy(z: Array, y: Array) -> float:
    """The share of samples whose largest logit is the right class's.

    Args:
        z: logits [N, C].
        y: labels [N].
    Returns:
        0 to 1.
    Raises:
        ValueError: logits that are no matrix; labels that do not fit them.
    """
    z = matrix("z", z)
    return (z.argmax(dim=1) == labels(y, len(z))).double().mean().item()


def agreement(z_s: Array, z_t: Array) -> float:
    """The share of samples for which student and teacher predict the same class, right or wrong.

    Source: Stanton et al. 2021; PESF v2 Table 10 (there in percent).
    Args:
        z_s, z_t: logits of student and teacher [N, C].
    Returns:
        0 to 1.
    Raises:
        ValueError: logits that are no matrices of one shape.
    """
    z_s, z_t = matrix_pair(z_s, z_t)
    return (z_s.argmax(dim=1) == z_t.argmax(dim=1)).double().mean().item()


def kl_divergence(z_s: Array, z_t: Array, tau: MetricTemperature = 1.0) -> float:
    r"""KL(teacher || student) of softened predictions.

    .. math:: \frac{1}{N} \sum_n \sum_c p^t_{nc} (\log p^t_{nc} - \log p^s_{nc}), \quad p = \mathrm{softmax}(z / \tau)

    Source: PESF v1 Figs. 5 and 6, v2 Table 10.
    The paper leaves open: the temperature, and whether the printed values hold the loss's factor tau squared. Here they
    do not.
    Args:
        z_s, z_t: logits of student and teacher [N, C].
        tau: temperature > 0 of both sides; "sigma" gives each side its own.
    Returns:
        Nats, summed over classes, mean over samples.
    Raises:
        ValueError: logits that are no matrices of one shape; a temperature that is not positive.
    """
    z_s, z_t = matrix_pair(z_s, z_t)
    return soft_kl(z_s, z_t, tau_s=temperature(tau, z_s), tau_t=temperature(tau, z_t), scale=1.0).item()


def truth_divergence(z: Array, p: Array) -> float:
    r"""How far predictions are from the true posterior, where it is known (`word_language`).

    .. math:: \frac{1}{N} \sum_n \sum_c p_{nc} (\log p_{nc} - \log q_{nc}), \quad q = \mathrm{softmax}(z)

    The least expected cross-entropy is the posterior's own entropy; this is what a network's lies above it.

    Args:
        z: logits [N, C].
        p: true probabilities of the classes [N, C]; each row sums to one.
    Returns:
        KL(p || q) in nats, mean over samples; 0 where the prediction is the truth.
    Raises:
        ValueError: other shapes; rows that are no probabilities.
    """
    z, p = matrix("z", z), matrix("p", p)
    if z.shape != p.shape:
        raise ValueError(f"z and p must have one shape, got {list(z.shape)} and {list(p.shape)}.")
    if bool((p < 0).any()) or not torch.allclose(p.sum(1), torch.ones(len(p), dtype=p.dtype), atol=1e-5):
        raise ValueError("each row of p must hold probabilities that sum to one.")
    return F.kl_div(F.log_softmax(z, dim=1), p, reduction="batchmean").item()


def probability_loyalty(z_s: Array, z_t: Array, base: float = 2.0) -> float:
    r"""How close the student's whole prediction is to the teacher's, by their Jensen-Shannon distance.

    .. math:: \frac{1}{N} \sum_n \left[ 1 - \sqrt{\tfrac{1}{2} \mathrm{KL}(p^t_n \| m_n)
              + \tfrac{1}{2} \mathrm{KL}(p^s_n \| m_n)} \right], \quad m = (p^t + p^s) / 2

    Source: Xu et al. 2021; PESF v2 Table 10 (there in percent).
    The paper leaves open: the logarithm's base. Base 2 makes 0 reachable; natural logarithms end at .167.
    Args:
        z_s, z_t: logits of student and teacher [N, C], softened with temperature 1.
        base: base of the logarithm, > 1.
    Returns:
        Mean over samples: 1 for equal predictions, with base 2 down to 0 for predictions that share no class.
    Raises:
        ValueError: logits that are no matrices of one shape; a base that is not above 1.
    """
    if not base > 1:
        raise ValueError(f"base must be above 1, got {base}.")
    z_s, z_t = matrix_pair(z_s, z_t)
    log_p_s, log_p_t = F.log_softmax(z_s, dim=1), F.log_softmax(z_t, dim=1)
    # log(p / m) = log 2 - log(1 + q / p) is exactly zero where p = q; the root would turn an error of 1e-16 into 1e-8.
    ratio, zero = log_p_s - log_p_t, torch.zeros((), dtype=torch.float64)
    to_t = log_p_t.exp() * (math.log(2) - torch.logaddexp(zero, ratio))
    to_s = log_p_s.exp() * (math.log(2) - torch.logaddexp(zero, -ratio))
    divergence = (to_t + to_s).sum(dim=1).clamp_min(0) / 2
    return (1 - (divergence / math.log(base)).sqrt()).mean().item()
