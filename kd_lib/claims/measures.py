"""What claims measure of one run, each number by its name; and the facts of a run by which claims tell runs apart."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from kd_lib import data, losses, metrics, models
from kd_lib.claims.readings import Missing, line
from kd_lib.config import Run
from kd_lib.methods import METHODS
from kd_lib.runs import Result

SILHOUETTE_SAMPLES = 2000  # its cost grows with the square
HOT = 256.0  # a temperature at which "high" is true: logits have standard deviations of 3 to 4
GRADIENT_SAMPLES = 500


def facts(run: Run) -> dict[str, object]:
    """What a run is, one value a column; `repeat` is its seed."""
    return {
        "repeat": run.seed,
        "network": run.network,
        "teacher": run.teacher.network if run.teacher else ", ".join(run.peers),
        "method": run.method,
        "policy": run.policy or METHODS[run.method].policy,
        "when": when(run),
        **run.settings,
        "key": run.key,
    }


def when(run: Run) -> str:
    """How student and teacher came together: the choice of *when*, in a word or two."""
    teacher = run.teacher
    if teacher is None:
        return "together" if run.peers else "alone"
    if run.start_from is not None:
        return "route"
    if teacher.stop_after is not None:
        return "early"
    if teacher.teacher is not None:
        return "assisted"
    if teacher.method != "alone":
        return teacher.method
    return "longer" if run.epochs > teacher.epochs else "usual"


@lru_cache
def parameters(network: str, sizes: tuple[tuple[str, int], ...] = ()) -> int:
    """Number of parameters of a network, for data of these sizes (of CIFAR-100 where none are given)."""
    with torch.random.fork_rng(devices=[]):
        return sum(p.numel() for p in models.build(network, **dict(sizes), published=False).parameters())


def _own_size(result: Result) -> float:
    return parameters(result.run.network, tuple(result.data.sizes.items()))


def _teacher_size(result: Result) -> float:
    return parameters(result.run.teacher.network, tuple(result.data.sizes.items()))


def _sides(result: Result) -> tuple[Tensor, Tensor]:
    return result.outputs.logits, result.teacher_outputs.logits


def _tempered_gap(result: Result) -> float:
    z_s, z_t = _sides(result)
    with torch.no_grad():
        tau_s, tau_t = result.method().temperatures(z_s, z_t)
    return abs(metrics.sharpness_gap(z_s, z_t, tau_s=tau_s, tau_t=tau_t))


def _softening(result: Result) -> float:
    """Sharpness after a quarter of the training minus that at its end."""
    log = result.metrics.set_index("epoch")["sharpness"]
    return float(log[max(1, round(result.run.epochs / 4))] - log.iloc[-1])


def _order_error(result: Result) -> float:
    """How far the gap's power of the temperature is from falling by one from one temperature for both to adaptive ones."""
    z_s, z_t = (z.double() for z in _sides(result))
    sigmas = [losses.sigma(z) for z in (z_s, z_t)]
    grid = np.geomspace(HOT / 16, HOT / 4, 5)
    equal = [metrics.sharpness_gap(z_s, z_t, tau_s=4 * k, tau_t=4 * k) for k in grid]
    own = [metrics.sharpness_gap(z_s, z_t, tau_s=k * sigmas[0], tau_t=k * sigmas[1]) for k in grid]
    powers = [line(np.log(grid), np.log(np.abs(gaps)))[0] for gaps in (equal, own)]
    return powers[1] - powers[0] + 1


def _angle_to_regression(result: Result) -> float:
    """1 minus the cosine between KD's gradient at a high temperature and that of regression on centred logits."""
    z_s, z_t = (z[:GRADIENT_SAMPLES].double() for z in _sides(result))
    z = z_s.clone().requires_grad_()
    losses.kd(z, z_t, tau=HOT).backward()
    limit = (z_s - z_s.mean(1, keepdim=True)) - (z_t - z_t.mean(1, keepdim=True))
    return 1 - float(torch.cosine_similarity(z.grad.flatten(), limit.flatten(), 0))


def _cka(result: Result) -> float:
    if _collapsed(result.outputs.embedding) or _collapsed(result.teacher_outputs.embedding):
        return math.nan  # a network that says the same of every sample resembles nothing
    return metrics.linear_cka(result.outputs.embedding, result.teacher_outputs.embedding)


def _scatter(result: Result) -> float:
    if _collapsed(result.outputs.embedding):
        return math.nan
    return metrics.within_between_scatter(result.outputs.embedding, result.y)


def _collapsed(embedding: Tensor) -> bool:
    return bool((embedding == embedding[0]).all())


def _silhouette(result: Result) -> float:
    from sklearn.metrics import silhouette_score  # a second to import

    embedding, y = result.outputs.embedding.numpy(), result.y.numpy()
    size = min(SILHOUETTE_SAMPLES, len(y))
    return float(silhouette_score(embedding, y, sample_size=size, random_state=0))


def _structure(result: Result, z: Tensor, tau: float) -> float:
    """Percent of the probability given to wrong classes that lies on related classes."""
    related = data.related_classes(result.run.data)
    if related is None:
        raise Missing(f"nobody says which classes of {result.run.data} have something in common")
    return 100 * metrics.shared_class_mass(z, result.y, related, tau=tau)


def _lost_structure(result: Result) -> float:
    z = result.outputs.logits
    return _structure(result, z, 4.0) - _structure(result, z, 1.0)


MEASURES: dict[str, Callable[[Result], float]] = {
    "accuracy": lambda r: r.accuracy,
    "teacher_accuracy": lambda r: 100 * metrics.accuracy(r.teacher_outputs.logits, r.y),
    "parameters": _own_size,
    "teacher_parameters": _teacher_size,
    "classes": lambda r: r.data.n_classes,
    "sharpness": lambda r: float(metrics.sharpness(r.outputs.logits).mean()),
    "teacher_sharpness": lambda r: float(metrics.sharpness(r.teacher_outputs.logits).mean()),
    "softening": _softening,
    "entropy": lambda r: metrics.entropy(r.outputs.logits),
    "gap": lambda r: abs(metrics.sharpness_gap(*_sides(r))),
    "gap_tempered": _tempered_gap,
    "signed_gap": lambda r: metrics.sharpness_gap(*_sides(r)),
    "taylor_gap": lambda r: metrics.taylor_gap(*_sides(r)),
    "order_error": _order_error,
    "angle_to_regression": _angle_to_regression,
    "kl": lambda r: metrics.kl_divergence(*_sides(r)),
    "cka": _cka,
    "silhouette": _silhouette,
    "scatter": _scatter,
    "lost_structure": _lost_structure,
    "teacher_structure": lambda r: _structure(r, r.teacher_outputs.logits, 4.0),
}
"""Gaps are sizes: how far apart the two sharpnesses lie, whichever is the larger (`signed_gap`: teacher minus student).

Accuracies in percent, everything logarithmic in nats, the rest as in `metrics`.
"""

TEACHER_NEEDED = frozenset(
    {"teacher_accuracy", "teacher_parameters", "teacher_sharpness", "gap", "gap_tempered", "signed_gap", "taylor_gap"}
)
"""Measures that a network trained alone does not have; its cell stays empty."""
