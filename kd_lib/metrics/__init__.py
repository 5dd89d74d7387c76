"""Metrics: how sharp, how right, how alike.

Each takes torch tensors or NumPy arrays and computes in float64 on the CPU, without gradients. A metric of a data set
returns a Python float; a value for each sample comes back as a tensor [N]. The student always stands before the
teacher. Wherever a metric takes a temperature it may be a number, [N, 1] for one per sample, or "sigma": each sample's
own standard deviation, as in adaptive-temperature distillation. Logits that are not finite give a result that is not.
"""

from kd_lib.metrics.agreement import accuracy, agreement, kl_divergence, probability_loyalty, truth_divergence
from kd_lib.metrics.confidence import entropy, expected_calibration_error, shared_class_mass
from kd_lib.metrics.sharpness import (
    logit_std,
    logit_sum,
    major_logit,
    sharpness,
    sharpness_gap,
    taylor_gap,
    taylor_sharpness,
)
from kd_lib.metrics.similarity import linear_cka, linear_cka_unbiased, within_between_scatter

__all__ = [
    "accuracy",
    "agreement",
    "entropy",
    "expected_calibration_error",
    "kl_divergence",
    "linear_cka",
    "linear_cka_unbiased",
    "logit_std",
    "logit_sum",
    "major_logit",
    "probability_loyalty",
    "shared_class_mass",
    "sharpness",
    "sharpness_gap",
    "taylor_gap",
    "taylor_sharpness",
    "truth_divergence",
    "within_between_scatter",
]
