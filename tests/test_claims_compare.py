"""The comparisons that decide claims, against other implementations."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from toy_claims import EXAMPLES, NOISE, T_2, T_4

from kd_lib import figures
from kd_lib.claims import compare
from kd_lib.claims.readings import Missing, mean_interval, slope_interval


def test_paired_differences_are_those_of_the_figures():
    table = EXAMPLES["atkd-beats-kd"](1.0)
    reading = compare.against("accuracy", "kd")(table)
    row = figures.paired_difference(table.rename(columns={"repeat": "seed"}), "method", "accuracy", baseline="kd").iloc[
        0
    ]
    assert reading.effect == pytest.approx(row["mean"])
    assert (reading.high - reading.low) / 2 == pytest.approx(row["half_width"])
    by_hand = np.array(NOISE) + 1
    assert reading.high == pytest.approx(by_hand.mean() + T_2 * by_hand.std(ddof=1) / math.sqrt(3))


def test_groups_are_averaged_within_a_seed_and_lonely_seeds_left_out():
    rows = [("kd", "a", 0, 1.0), ("x", "a", 0, 2.0), ("kd", "b", 0, 1.0), ("x", "b", 0, 5.0), ("x", "a", 1, 9.0)]
    table = pd.DataFrame(rows, columns=["method", "teacher", "repeat", "accuracy"])
    reading = compare.against("accuracy", "kd", within=["teacher"])(table)
    assert (reading.effect, reading.n) == (2.5, 1)
    assert math.isnan(reading.low)


def test_two_runs_in_one_place_are_an_error_and_not_averaged():
    table = pd.concat([EXAMPLES["atkd-beats-kd"](1.0)] * 2)
    with pytest.raises(ValueError, match="two runs stand for one repeat"):
        compare.against("accuracy", "kd")(table)


def test_the_slope_over_networks_is_the_textbooks():
    x, y = [1.0, 2.0, 3.0, 5.0, 8.0, 9.0], [2.0, 1.0, 4.0, 4.0, 9.0, 7.0]
    reading, book = slope_interval(x, y, "networks"), stats.linregress(x, y)
    assert reading.effect == pytest.approx(book.slope)
    assert reading.high - reading.effect == pytest.approx(T_4 * book.stderr)
    assert math.isnan(slope_interval([1, 2], [1, 2], "networks").low)
    with pytest.raises(Missing):
        slope_interval([1, 1, 1], [1, 2, 3], "networks")


def test_rank_correlation_is_spearmans_within_seeds():
    rng = np.random.default_rng(1)
    rows = [{"repeat": s, "method": f"m{i}", "gap": g, "accuracy": -g + a} for s in range(2) for i in range(12)
            for g, a in [rng.normal(size=2)]]  # fmt: skip
    table = pd.DataFrame(rows)
    reading = compare.rank_correlation("gap", "accuracy")(table)
    by_seed = [stats.spearmanr(part["gap"], part["accuracy"]).statistic for _, part in table.groupby("repeat")]
    assert reading.effect == pytest.approx(np.mean(by_seed))
    assert -1 <= reading.low < reading.effect < reading.high <= 1
    assert reading == compare.rank_correlation("gap", "accuracy")(table), "the bootstrap is repeatable"
    assert reading.n == 12


def test_the_largest_teacher_is_compared_with_the_mean_of_the_others():
    table = pd.DataFrame({"repeat": [0] * 3, "size": [1, 2, 9], "accuracy": [60.0, 70.0, 61.0], "network": "s"})
    assert compare.rest("accuracy", "size", within=["network"])(table).effect == -4.0


def test_a_gap_counts_by_its_size():
    table = pd.DataFrame(
        {
            "repeat": [0, 0],
            "method": ["alone", "kd"],
            "network": "s",
            "sharpness": [10.0, 17.0],
            "teacher_sharpness": [np.nan, 15.0],
        }
    )
    assert compare.narrowing()(table).effect == 2.0 - 5.0


def test_mean_interval_of_nothing():
    with pytest.raises(Missing, match="no seeds"):
        mean_interval([])
