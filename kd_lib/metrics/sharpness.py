"""How peaked predictions are, exactly and by the papers' Taylor expansion."""

import math

import torch
from torch import Tensor

from kd_lib.losses import sigma
from kd_lib.metrics.inputs import Array, MetricTemperature, matrix, matrix_pair, temperature


def sharpness(z: Array, tau: MetricTemperature = 1.0) -> Tensor:
    r"""A smooth maximum of each sample's logits.

    .. math:: S(z) = \log \sum_c e^{z_c / \tau}

    Source: PESF v1 Eq. 7, v2 Eq. 2; ATKD Eq. 4, with a temperature Eq. 1.
    A constant added to all logits is added to S (divided by tau), so S compares networks only as far as their logits
    are centred. Uniform predictions from centred logits give log C.
    Args:
        z: logits [N, C].
        tau: temperature > 0.
    Returns:
        [N].
    Raises:
        ValueError: logits that are no matrix; a temperature that is not positive.
    """
    z = matrix("z", z)
    return torch.logsumexp(z / temperature(tau, z), dim=1)


def sharpness_gap(z_s: Array, z_t: Array, *, tau_s: MetricTemperature = 1.0, tau_t: MetricTemperature = 1.0) -> float:
    r"""How much sharper the teacher is than the student.

    .. math:: \frac{1}{N} \sum_n \left[ \log \sum_c e^{z^t_{nc} / \tau_t} - \log \sum_c e^{z^s_{nc} / \tau_s} \right]

    Source: PESF v1 Eq. 8, v2 Eq. 3 (tau 1); ATKD Eq. 6 (one tau), Eq. 1 (each side's own).
    The paper leaves open: how samples are reduced, and at which temperature the tables' gaps are taken. Here the mean;
    PESF's values (36.3 -> 16.8) cannot be means at tau 1, where a network's whole sharpness is 12 to 16 (ATKD Table 2).
    Args:
        z_s, z_t: logits of student and teacher [N, C].
        tau_s, tau_t: temperatures > 0; "sigma" gives the gap that adaptive temperatures leave.
    Returns:
        Mean over samples; positive where the teacher is sharper.
    Raises:
        ValueError: as `sharpness`; shapes that differ.
    """
    z_s, z_t = matrix_pair(z_s, z_t)
    return (sharpness(z_t, tau_t) - sharpness(z_s, tau_s)).mean().item()


def taylor_sharpness(z: Array, tau: MetricTemperature = 1.0, *, centred: bool = True) -> Tensor:
    r"""Second-order expansion of the sharpness around equal logits.

    .. math:: \text{centred: } \log C + \log\left(1 + \frac{\sigma^2}{2 \tau^2}\right), \qquad
              \text{else: } \log\left(C + \sum_c \frac{z_c}{\tau} + \frac{1}{2} \sum_c \frac{z_c^2}{\tau^2}\right)

    Source: PESF v1 Eqs. 9 and 10, v2 Eqs. 6 and 7; ATKD Eqs. 7 to 9.
    Its error is the mean of (z_c - mean)^3 / 6 tau^3 and higher powers, so it needs sigma well below tau. At tau 1 real
    logits (sigma 3 to 4, ATKD Table 13) are far outside.
    Args:
        z: logits [N, C].
        tau: temperature > 0.
        centred: measure the logits from their own mean, which the papers take to be zero (Eq. 10, with the population
            variance). False expands the logits as they are (Eq. 9).
    Returns:
        [N].
    Raises:
        ValueError: as `sharpness`.
    """
    z = matrix("z", z)
    x = z / temperature(tau, z)
    if centred:
        x = x - x.mean(dim=1, keepdim=True)
    return math.log(z.shape[1]) + torch.log1p((x + x.square() / 2).mean(dim=1))


def taylor_gap(z_s: Array, z_t: Array, *, tau_s: MetricTemperature = 1.0, tau_t: MetricTemperature = 1.0) -> float:
    r"""The sharpness gap as the papers' analysis has it.

    .. math:: \frac{1}{N} \sum_n \left[ \log\left(1 + \frac{\sigma_{t,n}^2}{2 \tau_t^2}\right)
              - \log\left(1 + \frac{\sigma_{s,n}^2}{2 \tau_s^2}\right) \right]

    Source: PESF v1 Eq. 10, v2 Eq. 7 (tau 1); ATKD Eq. 9.
    With "sigma" on both sides it is zero by construction; the true gap is not: what is left are the third and higher
    moments of the logits over sigma, which no rescaling of the logits makes smaller.
    Args:
        z_s, z_t: logits of student and teacher [N, C].
        tau_s, tau_t: temperatures > 0.
    Returns:
        Mean over samples; positive where the teacher's logits spread more.
    Raises:
        ValueError: as `sharpness_gap`.
    """
    z_s, z_t = matrix_pair(z_s, z_t)
    return (taylor_sharpness(z_t, tau_t) - taylor_sharpness(z_s, tau_s)).mean().item()


def logit_std(z: Array) -> float:
    r"""How far a sample's logits spread: ATKD's adaptive temperature.

    .. math:: \frac{1}{N} \sum_n \sqrt{\frac{1}{C} \sum_c (z_{nc} - \bar z_n)^2}

    Source: ATKD Table 13.
    Args:
        z: logits [N, C].
    Returns:
        Mean over samples of the population standard deviation over classes.
    Raises:
        ValueError: logits that are no matrix.
    """
    return sigma(matrix("z", z)).mean().item()


def logit_sum(z: Array) -> float:
    r"""The sum that the papers' analysis takes to be zero.

    .. math:: \frac{1}{N} \sum_n \sum_c z_{nc}

    Source: ATKD section A.6, Table 12.
    The paper leaves open: how samples are reduced. Here the mean with its sign, so that sums of both signs cancel.
    Args:
        z: logits [N, C].
    Returns:
        Mean over samples.
    Raises:
        ValueError: logits that are no matrix.
    """
    return matrix("z", z).sum(dim=1).mean().item()


def major_logit(z: Array) -> Tensor:
    r"""Each sample's largest logit, measured from the sample's mean.

    .. math:: \max_c z_c - \frac{1}{C} \sum_c z_c

    Source: PESF v1 Fig. 2, v2 Fig. 2 ("normalized major logits").
    The paper leaves open: what normalises the logits. Centring is what the analysis beside the figure assumes (PESF v1
    Eq. 10), and it keeps the spread that the figure is about; dividing by sigma would hide it.
    Args:
        z: logits [N, C].
    Returns:
        [N], in units of logits, at least 0.
    Raises:
        ValueError: logits that are no matrix.
    """
    z = matrix("z", z)
    return z.max(dim=1).values - z.mean(dim=1)
