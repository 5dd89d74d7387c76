"""Other temperatures and scales for the one formula `soft_kl`: taken from the logits, dropped on one side, or learned."""

from torch import Tensor

from kd_lib.losses.logits import Logits, Scalar, check_logits, check_positive, kd, sigma, soft_kl, wide


def skd(z_s: Logits, z_t: Logits, *, tau: float = 4.0) -> Scalar:
    r"""Spherical KD: the student's logits are brought to the size of the teacher's before they are compared.

    .. math:: \frac{\tau^2}{B} \sum_b \mathrm{KL}\left(\mathrm{softmax}(z^t_b / \tau) \,\middle\|\,
              \mathrm{softmax}\left(\frac{\sigma(z^t_b)}{\sigma(z^s_b)} \frac{z^s_b}{\tau}\right)\right)

    Source: Guo et al. 2020 (arXiv 2010.07485).
    Differs from the authors' code: it gives the logits of both sides one fixed sigma (2 to 3) and the temperature 4, which
    is `logit_std` at tau 1.3 to 2, times a constant. Here each sample keeps its teacher's sigma, so the teacher's side is
    that of `kd`.
    Args:
        z_s, z_t: logits of student and teacher [B, C]. The caller detaches what must not move.
        tau: temperature > 0 of the teacher.
    Returns:
        Nats times tau squared, summed over classes, averaged over the batch. The student's size has no influence: the
        gradient passes through sigma(z_s) and is orthogonal to z_s.
    Raises:
        ValueError: as `soft_kl`.
    """
    check_logits(z_s, z_t)
    tau_s = tau * sigma(z_s) / sigma(z_t)
    return soft_kl(z_s, z_t, tau_s=tau_s, tau_t=tau, scale=tau**2)


def normkd(z_s: Logits, z_t: Logits, *, tau: float = 2.0, unbiased: bool = False) -> Scalar:
    r"""NormKD: temperatures in units of each sample's own sigma, and a scale from the teacher's.

    .. math:: \frac{1}{B} \sum_b (\tau \sigma(z^t_b))^2 \,
              \mathrm{KL}(\mathrm{softmax}(z^t_b / \tau \sigma(z^t_b)) \,\|\, \mathrm{softmax}(z^s_b / \tau \sigma(z^s_b)))

    Source: Chi et al. 2023 (arXiv 2308.00520).
    Differs from the authors' code: it divides the sums of squares by C - 1. At 100 classes that is half a percent.
    Args:
        z_s, z_t: logits of student and teacher [B, C]. The caller detaches what must not move.
        tau: temperature > 0 in units of sigma.
        unbiased: divide the sums of squares by C - 1 instead of C.
    Returns:
        Nats times the teacher's squared temperature, summed over classes, averaged over the batch. Samples of which the
        teacher is sure count more than with `logit_std`.
    Raises:
        ValueError: as `soft_kl`.
    """
    check_logits(z_s, z_t)
    tau_s, tau_t = (tau * sigma(z, unbiased=unbiased) for z in (z_s, z_t))
    return soft_kl(z_s, z_t, tau_s=tau_s, tau_t=tau_t, scale=tau_t**2)


def logit_std(z_s: Logits, z_t: Logits, *, tau: float = 2.0, unbiased: bool = False) -> Scalar:
    r"""Logit standardisation: the logits' Z-scores are compared at a fixed temperature.

    .. math:: \frac{\tau^2}{B} \sum_b \mathrm{KL}(\mathrm{softmax}(Z(z^t_b) / \tau) \,\|\, \mathrm{softmax}(Z(z^s_b) / \tau)),
              \quad Z(z) = \frac{z - \bar z}{\sigma(z)}

    Source: Sun et al., CVPR 2024 (arXiv 2403.01427).
    Differs from the authors' code: it divides the sums of squares by C - 1. The mean is left where it is, since a shift
    of all logits does not change a softmax. With tau 1 it is `atkd` as printed.
    Args:
        z_s, z_t: logits of student and teacher [B, C]. The caller detaches what must not move.
        tau: temperature > 0 of the Z-scores.
        unbiased: divide the sums of squares by C - 1 instead of C.
    Returns:
        Nats times tau squared, summed over classes, averaged over the batch.
    Raises:
        ValueError: as `soft_kl`.
    """
    check_logits(z_s, z_t)
    tau_s, tau_t = (tau * sigma(z, unbiased=unbiased) for z in (z_s, z_t))
    return soft_kl(z_s, z_t, tau_s=tau_s, tau_t=tau_t, scale=tau**2)


def dtkd_temperatures(z_s: Logits, z_t: Logits, *, tau: float = 4.0) -> tuple[Tensor, Tensor]:
    r"""The temperatures of DTKD: one budget, divided between the sides in the ratio of their sharpness.

    .. math:: \tau_s = \frac{2 m_s}{m_s + m_t} \tau, \quad \tau_t = \frac{2 m_t}{m_s + m_t} \tau,
              \quad m = \log \sum_c e^{z_c}

    Source: Wei & Bai 2024 (arXiv 2404.12711); their code takes the largest logit for m. Their repository says that the
    paper's derivation (Eqs. 4 and 5) is wrong, and that its experiments stand.
    Unlike all other temperatures here these change when a constant is added to all logits of a sample. A student can so
    buy itself a smaller loss by lowering all its logits; where that ends in a negative m, there is no temperature. The m
    of centred logits is at least log C.
    Args:
        z_s, z_t: logits of student and teacher [B, C].
        tau: mean of the two temperatures, > 0.
    Returns:
        (tau_s, tau_t), each [B, 1].
    Raises:
        ValueError: an m that is not positive. On an accelerator values are not read, as in `soft_kl`.
    """
    m_s, m_t = (wide(z).logsumexp(dim=1, keepdim=True) for z in (z_s, z_t))
    for side, m in (("student", m_s), ("teacher", m_t)):
        if m.device.type == "cpu" and bool((m <= 0).any()):
            raise ValueError(
                f"DTKD's sharpness of the {side} must be positive, got {m.min().item()}: the logits lie too far below "
                "zero. Centre each sample's logits first (the setting `centred` of the method)."
            )
    return 2 * tau * m_s / (m_s + m_t), 2 * tau * m_t / (m_s + m_t)


def dtkd(z_s: Logits, z_t: Logits, *, tau: float = 4.0) -> Scalar:
    r"""Dynamic temperatures: the sharper side gets the higher one. DTKD adds it to plain KD, see `methods.DTKD`.

    .. math:: \frac{1}{B} \sum_b \tau_s^b \tau_t^b \,
              \mathrm{KL}(\mathrm{softmax}(z^t_b / \tau_t^b) \,\|\, \mathrm{softmax}(z^s_b / \tau_s^b))

    Source: Wei & Bai 2024 (arXiv 2404.12711); temperatures in `dtkd_temperatures`.
    The paper leaves open: whether the gradient passes through the temperatures. Here, as in the authors' code, it does.
    Args:
        z_s, z_t: logits of student and teacher [B, C]. The caller detaches what must not move.
        tau: mean of the two temperatures, > 0.
    Returns:
        Nats times both temperatures, summed over classes, averaged over the batch.
    Raises:
        ValueError: as `soft_kl` and `dtkd_temperatures`.
    """
    check_logits(z_s, z_t)
    tau_s, tau_t = dtkd_temperatures(z_s, z_t, tau=tau)
    return soft_kl(z_s, z_t, tau_s=tau_s, tau_t=tau_t, scale=tau_s * tau_t)


def ttm(z_s: Logits, z_t: Logits, *, gamma: float = 0.1) -> Scalar:
    r"""Transformed teacher matching: only the teacher has a temperature, 1 / gamma.

    .. math:: \frac{1}{B} \sum_b \mathrm{KL}(\hat p^t_b \,\|\, p^s_b), \quad
              \hat p^t_c = \frac{(p^t_c)^\gamma}{\sum_k (p^t_k)^\gamma}, \quad p = \mathrm{softmax}(z)

    With T = 1 / gamma it is KD with a Renyi entropy as regulariser, up to the entropy of the teacher (Eq. 15):

    .. math:: \mathrm{KL}(\hat p^t \| p^s) = T \, \mathrm{KL}(p^t_T \| p^s_T) - (T - 1) H_{1/T}(p^s) + (T - 1) H(p^t_T)

    Source: Zheng & Yang, ICLR 2024 (arXiv 2402.11148), Eqs. 2 and 7 to 15.
    Args:
        z_s, z_t: logits of student and teacher [B, C]. The caller detaches what must not move.
        gamma: exponent of the teacher's probabilities, 0 < gamma <= 1; 1 is plain KL at temperature 1, lower is smoother.
    Returns:
        Nats, summed over classes, averaged over the batch.
    Raises:
        ValueError: gamma outside its range; otherwise as `soft_kl`.
    """
    return soft_kl(z_s, z_t, tau_s=1.0, tau_t=_teacher_temperature(gamma), scale=1.0)


def wttm(z_s: Logits, z_t: Logits, *, gamma: float = 0.1) -> Scalar:
    r"""Weighted TTM: samples of which the teacher is less sure count more.

    .. math:: \frac{1}{B} \sum_b U_b \, \mathrm{KL}(\hat p^t_b \,\|\, p^s_b), \quad U_b = \sum_c (p^t_{bc})^\gamma

    Source: Zheng & Yang, ICLR 2024 (arXiv 2402.11148), section 4 and Algorithm 1.
    Args:
        z_s, z_t: logits of student and teacher [B, C]. The caller detaches what must not move.
        gamma: exponent of the teacher's probabilities, 0 < gamma <= 1, as in `ttm`.
    Returns:
        Nats times U, which lies between 1 (a sure teacher) and C^(1 - gamma) (a uniform one), summed over classes,
        averaged over the batch.
    Raises:
        ValueError: as `ttm`.
    """
    check_logits(z_s, z_t)
    tau_t = _teacher_temperature(gamma)
    power_sum = (gamma * wide(z_t).log_softmax(dim=1)).logsumexp(dim=1, keepdim=True).exp()
    return soft_kl(z_s, z_t, tau_s=1.0, tau_t=tau_t, scale=power_sum)


def _teacher_temperature(gamma: float) -> float:
    check_positive("gamma", gamma)
    if gamma > 1:
        raise ValueError(f"gamma must lie in 0 < gamma <= 1, got {gamma}.")
    return 1 / gamma


def learned_temperature(theta: Tensor, *, tau_min: float = 1.0, tau_range: float = 20.0) -> Tensor:
    r"""The temperature that CTKD learns.

    .. math:: \tau = \tau_{min} + \tau_{range} \, \mathrm{sigmoid}(\theta)

    Source: Li et al., AAAI 2023 (arXiv 2211.16231), the "global" variant: one temperature for all samples.
    Args:
        theta: one number, any.
        tau_min, tau_range: the temperature lies between tau_min and tau_min + tau_range.
    Returns:
        A tensor of theta's shape.
    """
    return tau_min + tau_range * theta.sigmoid()


def ctkd(
    z_s: Logits,
    z_t: Logits,
    *,
    theta: Tensor,
    gradient_weight: float = -1.0,
    tau_min: float = 1.0,
    tau_range: float = 20.0,
) -> Scalar:
    r"""Curriculum temperature: KD at a temperature that is learned against the student.

    .. math:: \frac{\tau(\theta)^2}{B} \sum_b
              \mathrm{KL}(\mathrm{softmax}(z^t_b / \tau(\theta)) \,\|\, \mathrm{softmax}(z^s_b / \tau(\theta))),
              \quad \frac{\partial}{\partial \theta} \leftarrow \lambda \frac{\partial}{\partial \theta}

    Source: Li et al., AAAI 2023 (arXiv 2211.16231); tau in `learned_temperature`.
    Args:
        z_s, z_t: logits of student and teacher [B, C]. The caller detaches what must not move.
        theta: the learned number behind the temperature.
        gradient_weight: lambda, the factor on theta's gradient: -1 lets a descending optimiser move theta so that the
            loss grows, 0 keeps theta where it is.
        tau_min, tau_range: as in `learned_temperature`.
    Returns:
        Nats times tau squared, summed over classes, averaged over the batch.
    Raises:
        ValueError: as `soft_kl`.
    """
    still = theta.detach()
    reversed_theta = still + gradient_weight * (theta - still)  # theta's value exactly, its gradient times the weight
    return kd(z_s, z_t, tau=learned_temperature(reversed_theta, tau_min=tau_min, tau_range=tau_range))
