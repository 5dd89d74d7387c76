"""Losses: pure functions in nats, summed over classes, averaged over the batch."""

from kd_lib.losses.activations import ab, negative_mean, ofd
from kd_lib.losses.contrast import crd, crd_constant
from kd_lib.losses.correlation import dist
from kd_lib.losses.decoupled import dkd, nckd, tckd
from kd_lib.losses.factors import ft
from kd_lib.losses.features import at, fitnet, nst, same_size, unit, vid
from kd_lib.losses.flow import fsp, fsp_matrix
from kd_lib.losses.labels import imitation, label_adjustment, label_smoothing, mse, supervised
from kd_lib.losses.logits import Logits, Scalar, Temperature, atkd, kd, sigma, soft_kl
from kd_lib.losses.mutual import (
    dml,
    error_covariance,
    kdcl_general,
    kdcl_linear,
    kdcl_minlogit,
    kdcl_naive,
    least_error_weights,
)
from kd_lib.losses.relations import cc, pkt, rkd, rkd_angle, rkd_distance, sp
from kd_lib.losses.self_supervision import (
    contrastive_prediction,
    error_level,
    least_wrong,
    sskd,
    transformed_kd,
    view_similarity,
)
from kd_lib.losses.student_friendly import branch_ce, branch_kl
from kd_lib.losses.temperatures import (
    ctkd,
    dtkd,
    dtkd_temperatures,
    learned_temperature,
    logit_std,
    normkd,
    skd,
    ttm,
    wttm,
)
from kd_lib.losses.text import pkd, tinybert_attention, tinybert_hidden

__all__ = [
    "Logits",
    "Scalar",
    "Temperature",
    "ab",
    "at",
    "atkd",
    "branch_ce",
    "branch_kl",
    "cc",
    "contrastive_prediction",
    "crd",
    "crd_constant",
    "ctkd",
    "dist",
    "dkd",
    "dml",
    "dtkd",
    "dtkd_temperatures",
    "error_covariance",
    "error_level",
    "fitnet",
    "fsp",
    "fsp_matrix",
    "ft",
    "imitation",
    "kd",
    "kdcl_general",
    "kdcl_linear",
    "kdcl_minlogit",
    "kdcl_naive",
    "label_adjustment",
    "label_smoothing",
    "learned_temperature",
    "least_error_weights",
    "least_wrong",
    "logit_std",
    "mse",
    "nckd",
    "negative_mean",
    "normkd",
    "nst",
    "ofd",
    "pkd",
    "pkt",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "same_size",
    "sigma",
    "skd",
    "soft_kl",
    "sp",
    "sskd",
    "supervised",
    "tckd",
    "tinybert_attention",
    "tinybert_hidden",
    "transformed_kd",
    "ttm",
    "unit",
    "vid",
    "view_similarity",
    "wttm",
]
