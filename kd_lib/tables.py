"""Tables of many runs: one row a run, every number computed from its stored outputs."""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import pandas as pd
import torch

from kd_lib import cost, metrics, models
from kd_lib.config import Run
from kd_lib.runs import Result


def summary(results: Iterable[Result]) -> pd.DataFrame:
    """One row a run: what it was, how good it is, and how alike it is to its teacher.

    Columns: network, teacher, method, seed, the run's `settings` by name, parameters and teacher_parameters (numbers, not
    megabytes); accuracy (percent, last epoch), train_accuracy, teacher_accuracy; sharpness and teacher_sharpness; gap (raw) and
    gap_tempered (at the method's own temperatures); kl and kl_4 (temperature 1 and 4); agreement and loyalty (0 to 1);
    cka_embedding, cka_logits (NaN beside a network that says the same of every sample); seconds, key. Other scores of a data set
    (F1, Pearson ...) by name; truth and teacher_truth, the divergence from the true posterior, where a data set knows it.
    """
    return pd.DataFrame([_row(result) for result in results])


def _row(result: Result) -> dict[str, object]:
    run, out, log = result.run, result.outputs, result.metrics
    row = {
        "network": run.network,
        "teacher": _beside(run),
        "method": run.method,
        "seed": run.seed,
        **run.settings,
        "parameters": _parameters(result, run.network),
        **result.scores,
        **({"train_accuracy": float(log["train_accuracy"].iloc[-1])} if "train_accuracy" in log else {}),
        "sharpness": float(metrics.sharpness(out.logits).mean()),
        **_truth(result, out.logits, "truth"),
        "seconds": float(log["seconds"].sum()),
        "key": run.key,
    }
    return row | (_beside_teacher(result) if _beside(run) else {})


def _beside(run: Run) -> str:
    """The teacher's network, or the peers'; empty for a network trained alone."""
    return run.teacher.network if run.teacher else ", ".join(run.peers)


def _beside_teacher(result: Result) -> dict[str, float]:
    student, teacher = result.outputs, result.teacher_outputs
    z_s, z_t = student.logits, teacher.logits
    with torch.no_grad():
        tau_s, tau_t = result.method().temperatures(z_s, z_t)
    return {
        "teacher_parameters": _parameters(
            result, result.run.teacher.network if result.run.teacher else result.run.peers[0]
        ),
        **{f"teacher_{name}": score for name, score in result.data.scores(z_t, result.y).items()},
        **_truth(result, z_t, "teacher_truth"),
        "teacher_sharpness": float(metrics.sharpness(z_t).mean()),
        "gap": metrics.sharpness_gap(z_s, z_t),
        "gap_tempered": metrics.sharpness_gap(z_s, z_t, tau_s=tau_s, tau_t=tau_t),
        "kl": metrics.kl_divergence(z_s, z_t),
        "kl_4": metrics.kl_divergence(z_s, z_t, tau=4.0),
        "agreement": metrics.agreement(z_s, z_t),
        "loyalty": metrics.probability_loyalty(z_s, z_t),
        "cka_embedding": _cka(student.embedding, teacher.embedding),
        "cka_logits": _cka(z_s, z_t),
    }


def _truth(result: Result, z: torch.Tensor, name: str) -> dict[str, float]:
    posterior = getattr(result.data, "test_posterior", None)
    return {} if posterior is None else {name: metrics.truth_divergence(z, posterior)}


def _cka(x: torch.Tensor, y: torch.Tensor) -> float:
    collapsed = any(bool((part == part[0]).all()) for part in (x, y))
    return math.nan if collapsed else metrics.linear_cka(x, y)


def _parameters(result: Result, network: str) -> int:
    return _count(network, tuple(result.data.sizes.items()))


@lru_cache
def _count(network: str, sizes: tuple[tuple[str, int], ...]) -> int:
    with torch.random.fork_rng(devices=[]):
        return cost.parameters(models.build(network, **dict(sizes), published=False))


def verdict(mean: float, half_width: float, unit: str = "points", digits: int = 1) -> str:
    """A difference in words, for the text of a notebook: "+9.8 ± 4.7 points, higher".

    Args:
        mean, half_width: a mean difference and the half width of its interval, as from `figures.paired_difference`.
    Returns:
        The number and "higher", "lower", or "undecided" where the interval holds zero. Without an interval (one seed) the
        difference is called that of one seed.
    """
    if not math.isfinite(half_width):
        return f"{mean:+.{digits}f} {unit}".rstrip() + " (one seed, no interval)"
    word = "undecided" if not abs(mean) > half_width else "higher" if mean > 0 else "lower"
    return f"{mean:+.{digits}f} ± {half_width:.{digits}f} {unit}".rstrip() + f", {word}"


def caption(data: str, epochs: int, seeds: Sequence[int], more: str = "") -> str:
    """What was run, for figures and columns: "cifar100, 30 epochs, 1 seed, resnet56 to resnet20".

    Args:
        more: what else a reader must know, put last.
    """
    counts = (f"{n} {what}{'' if n == 1 else 's'}" for n, what in ((epochs, "epoch"), (len(seeds), "seed")))
    return ", ".join(part for part in (data, *counts, more) if part)


def epochs(results: Iterable[Result]) -> pd.DataFrame:
    """The logs of many runs under each other: one row an epoch, with network, teacher, method and seed in front."""
    parts = []
    for result in results:
        run, log = result.run, result.metrics
        facts = {"network": run.network, "teacher": _beside(run), "method": run.method}
        parts.append(log.assign(**facts, seed=run.seed, **run.settings))
    return pd.concat(parts, ignore_index=True)
