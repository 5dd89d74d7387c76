"""Tables and arrays small enough to draw and to check by hand: what the tests of figures share."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer

T_2 = 4.302652729911275  # the 97.5% point of Student's t with two degrees of freedom, from a printed table
DIGITS = [f"{i:02d}" for i in range(100)]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def runs() -> pd.DataFrame:
    """KD and ATKD at three temperatures with three seeds; a network trained alone, which has neither tau nor gap."""
    rows = [
        {"method": method, "tau": tau, "seed": seed, "accuracy": level + tau + seed, "gap": 0.5 * tau + 0.1 * seed}
        for method, level in (("kd", 60.0), ("atkd", 64.0))
        for tau in (4, 1, 2)
        for seed in range(3)
    ]
    rows += [{"method": "alone", "tau": None, "seed": seed, "accuracy": 55.0 + seed, "gap": None} for seed in range(3)]
    return pd.DataFrame(rows)


def teachers() -> pd.DataFrame:
    sizes = {"resnet14": 181_108, "resnet20": 278_324, "resnet110": 1_736_564}
    rows = [
        {"method": m, "teacher": t, "teacher_parameters": p, "seed": s, "accuracy": 60 + i * k + s, "gap": i + s / 9}
        for k, m in ((-1, "kd"), (1, "atkd"))
        for i, (t, p) in enumerate(sizes.items())
        for s in range(3)
    ]
    return pd.DataFrame(rows)


def pairs() -> pd.DataFrame:
    """Differences to KD, seed by seed: 2, 1, 3 on the first pair of networks and 0, 0, 3 on the second."""
    values = {
        ("a", "kd"): (60, 61, 65),
        ("a", "atkd"): (62, 62, 68),
        ("b", "kd"): (70, 71, 72),
        ("b", "atkd"): (70, 71, 75),
    }
    return pd.DataFrame(
        {"pair": p, "method": m, "seed": s, "accuracy": float(v)}
        for (p, m), vs in values.items()
        for s, v in enumerate(vs)
    )


def soft_label(top: int = 37) -> np.ndarray:
    p = np.full(100, 0.2 / 98)
    p[top], p[38] = 0.5, 0.3
    return p


def images() -> np.ndarray:
    return np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 1, 4, 5)


def half_lengths(container: ErrorbarContainer, axis: int) -> np.ndarray:
    return np.array([np.ptp(segment[:, axis]) / 2 for segment in container[2][0].get_segments() if len(segment)])
