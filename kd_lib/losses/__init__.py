"""Losses: pure functions in nats, summed over classes, averaged over the batch."""

from kd_lib.losses.labels import label_adjustment, label_smoothing
from kd_lib.losses.logits import Logits, Scalar, Temperature, atkd, kd, sigma, soft_kl

__all__ = [
    "Logits",
    "Scalar",
    "Temperature",
    "atkd",
    "kd",
    "label_adjustment",
    "label_smoothing",
    "sigma",
    "soft_kl",
]
