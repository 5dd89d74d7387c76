"""An effect with its interval, and what it says about a claim. Arithmetic only."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
VERDICTS = (HOLDS, FAILS, UNDECIDED, NOT_RUN)


class Reading(NamedTuple):
    """What a comparison found.

    Attributes:
        effect: in the claim's unit.
        low, high: ends of its 95% interval; NaN where nothing was repeated.
        n: how many repetitions the interval rests on.
        over: what was repeated.
    """

    effect: float
    low: float
    high: float
    n: int
    over: str = "seeds"


class Missing(ValueError):
    """A comparison lacks numbers it needs; the message says which."""


def decide(reading: Reading, direction: int, margin: float | None = None) -> str:
    """The verdict on a claim.

    Args:
        reading: the measured effect.
        direction: 1 where the claim says the effect is above zero, -1 below; 0 for a claim that it is about zero.
        margin: for direction 0, how far from zero still counts as "about".
    Returns:
        "holds" where the whole interval lies on the claimed side (or within the margin), "does not hold" where all of it lies
        on the other side (or outside the margin), else "undecided"; so also where there is no interval.
    """
    low, high = sorted((reading.low, reading.high)) if direction >= 0 else sorted((-reading.low, -reading.high))
    if direction == 0:
        inside, outside = -margin <= low and high <= margin, low > margin or high < -margin
    else:
        inside, outside = low > 0, high < 0
    return HOLDS if inside else FAILS if outside else UNDECIDED


def mean_interval(values: Sequence[float], over: str = "seeds") -> Reading:
    r"""Mean and t interval.

    .. math:: \bar x \pm t_{0.975,\,n-1} \, s / \sqrt{n}

    Raises:
        Missing: no values.
    """
    x = np.asarray(values, float)
    if not len(x):
        raise Missing(f"no {over} to average over")
    half = math.nan if len(x) == 1 else stdtrit(len(x) - 1, 0.975) * x.std(ddof=1) / math.sqrt(len(x))
    return Reading(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x), over)


def slope_interval(x: Sequence[float], y: Sequence[float], over: str) -> Reading:
    r"""Slope of the least-squares line and its t interval.

    .. math:: \hat b \pm t_{0.975,\,n-2} \sqrt{\frac{\sum (y - \hat y)^2 / (n - 2)}{\sum (x - \bar x)^2}}

    Raises:
        Missing: fewer than two different x.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    b, a = line(x, y)
    if len(x) < 3:
        return Reading(b, math.nan, math.nan, len(x), over)
    error = math.sqrt(np.square(y - a - b * x).sum() / (len(x) - 2) / np.square(x - x.mean()).sum())
    half = stdtrit(len(x) - 2, 0.975) * error
    return Reading(b, float(b - half), float(b + half), len(x), over)


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept of the least-squares line.

    Raises:
        Missing: fewer than two different x.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(np.unique(x)) < 2:
        raise Missing("a slope needs two different values")
    b = float(((x - x.mean()) * (y - y.mean())).sum() / np.square(x - x.mean()).sum())
    return b, float(y.mean() - b * x.mean())
