"""Losses on softened logits: one formula, and the temperatures and scales that make it a method."""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_lib.errors import unknown

Logits: TypeAlias = Tensor
"""[B, C], before any temperature."""
Scalar: TypeAlias = Tensor
"""A tensor without axes."""
Temperature: TypeAlias = float | Tensor
"""One positive number for the batch (a float, or a learned tensor of one element), or [B, 1], one for each sample."""

SMALLEST_SIGMA = 1e-6


def soft_kl(z_s: Logits, z_t: Logits, *, tau_s: Temperature, tau_t: Temperature, scale: Temperature) -> Scalar:
    r"""KL(teacher || student) of softened predictions, weighted per sample.

    .. math:: \frac{1}{B} \sum_b s_b \sum_c p^t_{bc} (\log p^t_{bc} - \log p^s_{bc}),
              \quad p^t = \mathrm{softmax}(z^t / \tau_t),\ p^s = \mathrm{softmax}(z^s / \tau_s)

    Source: Hinton et al. 2015 (tau_s = tau_t, scale tau squared); ATKD Eq. 10 (tau = sigma of each side's logits).
    Differs from the paper: ATKD Eqs. 2 and 10 print the cross-entropy, -sum p_t log p_s. It is larger by the teacher's
    entropy, so both have the same gradient in z_s, but not in z_t. The KL is zero once the student has learned it all.
    Args:
        z_s, z_t: logits of student and teacher, before any temperature. The caller detaches what must not move.
            16-bit logits are widened to float32 first.
        tau_s, tau_t: temperatures > 0; a float, or [B, 1] for one per sample.
        scale: factor on each sample's divergence, a float or [B, 1]; tau**2 keeps the gradient's size independent of
            tau.
    Returns:
        Nats, summed over classes, averaged over the batch.
    Raises:
        ValueError: logits that are not two [B, C] tensors of one shape; a temperature or a scale of another shape; a
            temperature that is not positive. Values of a tensor on an accelerator are not read: that would wait for
            the device.
    """
    check_logits(z_s, z_t)
    for name, value in (("tau_s", tau_s), ("tau_t", tau_t), ("scale", scale)):
        _check_shape(name, value, len(z_s))
    check_positive("tau_s", tau_s)
    check_positive("tau_t", tau_t)
    log_p_s = F.log_softmax(wide(z_s) / tau_s, dim=1)
    log_p_t = F.log_softmax(wide(z_t) / tau_t, dim=1)
    # log_softmax is finite even where its exp underflows, so 0 * log 0 never arises, on either side or way.
    divergence = (log_p_t.exp() * (log_p_t - log_p_s)).sum(dim=1, keepdim=True)
    return (scale * divergence).mean()


def kd(z_s: Logits, z_t: Logits, *, tau: Temperature = 4.0, tau_teacher: Temperature | None = None) -> Scalar:
    r"""Knowledge distillation with fixed temperatures, usually one for both sides.

    .. math:: \frac{\tau \, \tau_t}{B} \sum_b
              \mathrm{KL}(\mathrm{softmax}(z^t_b / \tau_t) \,\|\, \mathrm{softmax}(z^s_b / \tau))

    Source: Hinton et al. 2015; PESF v1 Eq. 3, v2 Eq. 1; ATKD Table 8 (a temperature for each side).
    The paper leaves open: the scale of ATKD Table 8. Hinton's tau squared becomes the product of the two, which keeps
    the teacher's pull at high temperatures the same whichever side's is changed: there the gradient in z_s is
    (z_s tau_t / tau - z_t) / C, of centred logits.
    Args:
        z_s, z_t: logits of student and teacher [B, C]. The caller detaches what must not move.
        tau: temperature > 0. A higher one lets the small probabilities count more; above the logits' spread the loss
            becomes the squared error of centred logits over 2C (ATKD Eqs. 12 to 14).
        tau_teacher: the teacher's own temperature > 0; None for the same. A higher one than the student's asks for a
            student less sharp than the teacher.
    Returns:
        Nats times the product of the temperatures, summed over classes, averaged over the batch.
    Raises:
        ValueError: as `soft_kl`.
    """
    if tau_teacher is None:
        return soft_kl(z_s, z_t, tau_s=tau, tau_t=tau, scale=tau**2)
    return soft_kl(z_s, z_t, tau_s=tau, tau_t=tau_teacher, scale=tau * tau_teacher)


def atkd(
    z_s: Logits,
    z_t: Logits,
    *,
    scale: Literal["none", "sigma"] | float = "none",
    unbiased: bool = False,
    detach_tau: bool = False,
) -> Scalar:
    r"""Adaptive temperatures: each sample's logits are divided by their own standard deviation, on both sides.

    .. math:: \frac{1}{B} \sum_b s_b \,
              \mathrm{KL}(\mathrm{softmax}(z^t_b / \sigma(z^t_b)) \,\|\, \mathrm{softmax}(z^s_b / \sigma(z^s_b)))

    Source: ATKD Eq. 10.
    Differs from the paper: KL instead of cross-entropy, see `soft_kl`.
    The paper leaves open: whether a factor like Hinton's tau squared belongs to it (Eq. 10 prints none), and whether
    the gradient passes through sigma (the temperature is a function of z, so by default it does).
    With two classes the softened prediction is one of two constants, so the loss has no gradient at all.
    Args:
        z_s, z_t: logits of student and teacher [B, C]. The caller detaches what must not move.
        scale: "none", Eq. 10 as printed; "sigma", each sample's sigma_s * sigma_t without gradient; or a positive
            number. With "none" the gradient is about 4 sigma_s times smaller than that of `kd` at tau 4, which is 14
            times for the networks of ATKD Table 13.
        unbiased: divide the sum of squares by C - 1 instead of C.
        detach_tau: no gradient through either sigma. Without it the gradient is orthogonal to z_s: the loss never asks
            for a larger or smaller student, only for another direction.
    Returns:
        Nats times the scale, summed over classes, averaged over the batch.
    Raises:
        ValueError: an unknown or non-positive scale; logits as in `soft_kl`.
    """
    check_logits(z_s, z_t)
    tau_s, tau_t = sigma(z_s, unbiased=unbiased), sigma(z_t, unbiased=unbiased)
    if detach_tau:
        tau_s, tau_t = tau_s.detach(), tau_t.detach()
    if scale == "none":
        factor = 1.0
    elif scale == "sigma":
        factor = (tau_s * tau_t).detach()
    elif isinstance(scale, str):
        raise unknown("scale of atkd", scale, ("none", "sigma", "a positive number"))
    else:
        check_positive("scale", scale)
        factor = scale
    return soft_kl(z_s, z_t, tau_s=tau_s, tau_t=tau_t, scale=factor)


def sigma(z: Logits, *, unbiased: bool = False) -> Tensor:
    r"""Standard deviation of each sample's logits over the classes.

    .. math:: \sigma(z_b) = \sqrt{\frac{1}{C} \sum_c (z_{bc} - \bar z_b)^2}

    Source: ATKD Eqs. 9 and 10, PESF v1 Eq. 10 (which print it for logits whose mean is zero).
    Args:
        z: logits [B, C].
        unbiased: divide by C - 1 instead of C.
    Returns:
        [B, 1], at least 1e-6: a sample whose logits are all equal has no direction, and gets a finite temperature and
        no gradient from here.
    """
    # The variance is cut before the root: the root's derivative at zero is infinite, and inf * 0 would be NaN.
    variance = wide(z).var(dim=1, keepdim=True, correction=int(unbiased))
    return variance.clamp_min(SMALLEST_SIGMA**2).sqrt()


def wide(z: Tensor) -> Tensor:
    """Logits in at least float32: squares of 16-bit ones overflow, and their sums over classes lose digits."""
    return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z


def check_logits(z_s: Tensor, z_t: Tensor) -> None:
    if z_s.ndim != 2 or z_s.shape != z_t.shape:
        raise ValueError(
            f"logits must be [B, C] and of one shape, got student {list(z_s.shape)} and teacher {list(z_t.shape)}."
        )


def _check_shape(name: str, value: Temperature, batch: int) -> None:
    # [B] would broadcast along the classes without a word whenever B equals C.
    if isinstance(value, Tensor) and value.numel() != 1 and value.shape != (batch, 1):
        raise ValueError(f"{name} must be one number or a [{batch}, 1] tensor, got shape {list(value.shape)}.")


def check_positive(name: str, value: Temperature) -> None:
    if isinstance(value, Tensor):
        # NaN passes, so that a diverged network ends in a NaN loss on every device.
        if value.device.type == "cpu" and bool((value <= 0).any()):
            raise ValueError(f"{name} must be positive, got {value.min().item()}.")
    elif not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive, finite number, got {value}.")
