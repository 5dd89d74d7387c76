"""For every claim, a table of runs for which it holds, fails or cannot tell."""

import math
from collections.abc import Callable

import pandas as pd

NOISE = (0.02, -0.03, 0.01)  # of three seeds
T_2, T_4 = 4.302652729911275, 2.7764451051977987  # 97.5% points of Student's t, from a printed table

PAIR = {"network": "s", "teacher": "t"}

Example = Callable[[float], pd.DataFrame]


def arms(value: str, base: str, *others: str, by: str = "method", **same: object) -> Example:
    """Three seeds of a baseline and of what lies d above it."""

    def table(d: float) -> pd.DataFrame:
        rows = [
            {"repeat": seed, by: name, value: 5 + seed + (name != base) * (d + noise), **same}
            for seed, noise in enumerate(NOISE)
            for name in (base, *others)
        ]
        return pd.DataFrame(rows)

    return table


def slope(value: str, x: str, at: tuple[float, ...], *, doubling: bool = False, **same: object) -> Example:
    """Three seeds of a value that rises by d with x."""

    def table(d: float) -> pd.DataFrame:
        rows = [
            {"repeat": seed, x: place, value: 5 + (d + noise) * (math.log2(place) if doubling else place), **same}
            for seed, noise in enumerate(NOISE)
            for place in at
        ]
        return pd.DataFrame(rows)

    return table


def networks(value: str, *, trend: bool) -> Example:
    """Four networks, each twice as large as the one before."""

    def table(d: float) -> pd.DataFrame:
        rows = [
            {"repeat": 0, "network": f"n{i}", "parameters": 1000 * 2**i, value: (i if trend else 1) * d + noise}
            for i, noise in enumerate((*NOISE, -0.02))
        ]
        return pd.DataFrame(rows)

    return table


def each(value: str) -> Example:
    return lambda d: pd.DataFrame({"repeat": [0, 1, 2], value: [d + noise for noise in NOISE]})


def correlated(d: float) -> pd.DataFrame:
    rows = [
        {"repeat": seed, "method": f"m{i}", "gap": i + noise, "accuracy": 60 + d * i + (d == 0) * (i * 7 % 5)}
        for seed, noise in enumerate(NOISE)
        for i in range(9)
    ]
    return pd.DataFrame(rows)


def narrowed(d: float) -> pd.DataFrame:
    """A student alone 5 below its teacher, and a taught one whose gap is d wider."""
    rows = [{"repeat": seed, "method": "alone", "network": "s", "sharpness": 10.0} for seed in range(3)]
    rows += [
        {"repeat": seed, "method": "kd", "network": "s", "sharpness": 10 - d - noise, "teacher_sharpness": 15.0}
        for seed, noise in enumerate(NOISE)
    ]
    return pd.DataFrame(rows)


def percent_off(d: float) -> pd.DataFrame:
    base = [2.0, 3.0, 4.0]
    taylor = [b * (1 + (d + noise) / 100) for b, noise in zip(base, NOISE, strict=True)]
    return pd.DataFrame({"repeat": range(3), "signed_gap": base, "taylor_gap": taylor})


def adjusted(d: float) -> pd.DataFrame:
    parts = [
        arms("accuracy", plain, name)(d)
        for name, plain in (("kd_adjusted", "kd"), ("ft_kd", "ft_kd_plain"), ("pesf_kd", "pesf_kd_plain"))
    ]
    return pd.concat(parts)


def by_classes(d: float) -> pd.DataFrame:
    parts = [
        arms("accuracy", "kd", "pesf_kd", classes=c, **PAIR)(1 + d * math.log2(c) + c % 3 / 50) for c in (2, 5, 20)
    ]
    return pd.concat(parts)


SIZES = (1000, 4000, 16000)
EXAMPLES: dict[str, Example] = {
    "oversized-teacher": slope("accuracy", "teacher_parameters", SIZES, doubling=True, network="s"),
    "sharper-with-size": networks("sharpness", trend=True),
    "surer-with-size": networks("entropy", trend=True),
    "gap-grows": slope("gap_tempered", "teacher_parameters", SIZES, doubling=True, network="s"),
    "atkd-narrows-gap": arms("gap_tempered", "kd", "atkd_16", **PAIR),
    "atkd-beats-kd": arms("accuracy", "kd", "atkd_16", **PAIR),
    "atkd-likes-size": slope("accuracy", "teacher_parameters", SIZES, doubling=True, network="s"),
    "early-teacher-softer": networks("softening", trend=False),
    "early-teacher-helps": arms("accuracy", "usual", "early", by="when"),
    "assistant-helps": arms("accuracy", "usual", "assisted", by="when"),
    "taylor-formula": percent_off,
    "taylor-orders": each("order_error"),
    "hot-kd-is-regression": each("angle_to_regression"),
    "kd-narrows-gap": narrowed,
    "hotter-wider-gap": slope("gap", "tau", (1.0, 2.0, 4.0), doubling=True),
    "small-gap-good-temperature": slope("accuracy", "gap", (0.5, 1.0, 2.0)),
    "small-gap-good-method": correlated,
    "ft-narrows-gap": arms("gap", "kd", "ft_kd"),
    "pesf-narrows-gap": arms("gap", "kd", "pesf_kd"),
    "pesf-lowers-kl": arms("kl", "kd", "pesf_kd"),
    "pesf-raises-cka": arms("cka", "kd", "pesf_kd"),
    "pesf-separates-classes": arms("silhouette", "kd", "pesf_kd"),
    "pesf-tightens-classes": arms("scatter", "kd", "pesf_kd"),
    "heat-erases-structure": networks("lost_structure", trend=False),
    "adapter-keeps-structure": arms("teacher_structure", "kd", "pesf_kd"),
    "ft-beats-kd": arms("accuracy", "kd", "ft_kd"),
    "pesf-beats-kd": arms("accuracy", "kd", "pesf_kd"),
    "adjustment-helps": adjusted,
    "rank-hardly-matters": slope("accuracy", "rank", (16, 32, 64, 96), doubling=True),
    "more-kd-helps": slope("accuracy", "kd_weight", (0.3, 0.5, 0.9)),
    "adapter-adds": arms("accuracy", "frozen", "adapter", by="policy", method="pkt"),
    "more-classes-more-gain": by_classes,
    "online-beats-offline": arms("accuracy", "kd", "dml", "kdcl_naive"),
    "ft-is-slow": arms("doublings", "kd", "ft_kd"),
    "adapter-is-cheap": arms("doublings", "kd", "pesf_kd"),
    "friendly-teacher-helps": arms("accuracy", "usual", "sftn", by="when", network="s", method="kd"),
    "teacher-accuracy-misleads": slope("accuracy", "teacher_accuracy", (79.0, 81.0, 84.0), network="s"),
    "friendly-teacher-closer": arms("kl", "usual", "sftn", by="when", network="s", method="kd"),
    "friendly-teacher-alike": arms("cka", "usual", "sftn", by="when", network="s", method="kd"),
    "fine-tuned-as-good": arms("accuracy", "sftn", "sftn_finetuned", by="when"),
    "route-helps": arms("accuracy", "usual", "route", by="when"),
    "route-beats-patience": arms("accuracy", "longer", "route", by="when"),
}
