"""Mean, spread and paired differences over seeds, and the rows of points that show them."""

import numpy as np
import pandas as pd
import pytest
import toy_figures
from matplotlib.container import ErrorbarContainer
from toy_figures import T_2, half_lengths, pairs, runs

from kd_lib import figures

close_figures = toy_figures.close_figures  # for every test of this file


# Mean, spread and differences


def test_mean_and_spread_by_hand():
    table = pd.DataFrame({"method": ["b"] * 3 + ["a"], "seed": [0, 1, 2, 0], "accuracy": [60.0, 62.0, 64.0, 50.0]})
    result = figures.mean_and_spread(table, "method", "accuracy")
    assert result["method"].tolist() == ["b", "a"]
    assert result["mean"].tolist() == [62.0, 50.0]
    assert result["n"].tolist() == [3, 1]
    assert result["std"][0] == pytest.approx(2.0)
    assert result["half_width"][0] == pytest.approx(T_2 * 2 / 3**0.5)
    assert result[["std", "half_width"]].iloc[1].isna().all()


def test_a_missing_setting_is_a_group():
    result = figures.mean_and_spread(runs(), ["method", "tau"], "accuracy")
    assert len(result) == 7
    assert result[result["method"] == "alone"]["mean"].tolist() == [56.0]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"by": "metod"}, "unknown column: 'metod'. Did you mean 'method'"),
        ({}, {"value": "acuracy"}, "Did you mean 'accuracy'"),
        ({}, {"over": "sed"}, "Did you mean 'seed'"),
        ({"seed": 0}, {}, "method b, seed 0 stands in more than one row: group by what differs"),
        ({}, {"over": None}, "method b stands in more than one row: name the column"),
        ({"accuracy": [1.0, np.nan, 3.0]}, {}, "accuracy is not a finite number in 1 rows, first method b"),
        ({"accuracy": [1.0, 2.0, np.inf]}, {}, "not a finite number"),
    ],
)
def test_mean_and_spread_refuses(change, arguments, message):
    table = pd.DataFrame({"method": "b", "seed": [0, 1, 2], "accuracy": [60.0, 62.0, 64.0]}).assign(**change)
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        figures.mean_and_spread(table, **{"by": "method", "value": "accuracy", **arguments})


def test_paired_difference_by_hand():
    one = pairs()[pairs()["pair"] == "a"]
    result = figures.paired_difference(one.sample(frac=1, random_state=3), "method", "accuracy", baseline="kd")
    assert result["method"].tolist() == ["atkd"]
    assert result[["mean", "std", "n"]].iloc[0].tolist() == pytest.approx([2.0, 1.0, 3])
    assert result["half_width"][0] == pytest.approx(T_2 / 3**0.5)


def test_paired_difference_within_groups():
    result = figures.paired_difference(pairs(), "method", "accuracy", baseline="kd", within=["pair"]).set_index("pair")
    assert result["mean"].to_dict() == {"a": 2.0, "b": 1.0}
    assert result["std"].to_dict() == pytest.approx({"a": 1.0, "b": 3**0.5})


def test_paired_difference_refuses():
    table = pairs()
    with pytest.raises(ValueError, match="unknown baseline in method: 'kdd'"):
        figures.paired_difference(table, "method", "accuracy", baseline="kdd")
    with pytest.raises(ValueError, match="stands in more than one row: name what differs in `within`"):
        figures.paired_difference(table, "method", "accuracy", baseline="kd")
    alone = table[~((table["method"] == "kd") & (table["seed"] == 2))]
    with pytest.raises(ValueError, match="pair a, seed 2, method atkd has no partner in method kd"):
        figures.paired_difference(alone, "method", "accuracy", baseline="kd", within=["pair"])


# Rows


def test_dots_show_each_seed_mean_and_interval():
    figure = figures.dots(pairs(), "accuracy", panel="pair", baseline="kd")
    left = figure.axes[0]
    assert [text.get_text() for text in left.get_yticklabels()] == ["KD", "ATKD"]
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    kd, atkd = (c for c in left.containers if isinstance(c, ErrorbarContainer))
    assert (kd[0].get_xdata()[0], atkd[0].get_xdata()[0]) == (62, 64)
    assert half_lengths(atkd, 0) == pytest.approx([T_2 * 12**0.5 / 3**0.5])  # 62, 62, 68: deviations -2, -2, 4
    assert left.collections[-1].get_offsets()[:, 0].tolist() == [62, 62, 68]
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first row on top
    assert [line.get_xdata()[0] for line in left.lines if line.get_linestyle() == ":"] == [62]
    with pytest.raises(ValueError, match="unknown baseline in method: 'kdd'"):
        figures.dots(pairs(), "accuracy", panel="pair", baseline="kdd")
    with pytest.raises(ValueError, match="pair_ "):
        figures.dots(pairs(), "accuracy", panel="pair_ ")
    with pytest.raises(ValueError, match="stands in more than one row"):
        figures.dots(pairs(), "accuracy")


def test_dots_without_repetitions():
    table = pd.DataFrame({"method": ["kd", "crd"], "accuracy": [70.66, 71.16]})
    figure = figures.dots(table, "accuracy", over=None)
    assert figure.note == ""
    assert figure.numbers["accuracy"].tolist() == [70.66, 71.16]


def test_differences_are_paired():
    figure = figures.differences(pairs(), "accuracy", baseline="kd", panel="pair")
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["ATKD"]
    bar = figure.axes[0].containers[0]
    assert bar[0].get_xdata()[0] == pytest.approx(2)
    assert half_lengths(bar, 0) == pytest.approx([T_2 / 3**0.5])
    assert all(any(np.array_equal(line.get_xdata(), [0, 0]) for line in ax.lines) for ax in figure.axes)
    assert figure.numbers["difference"].tolist() == [2, 1, 3, 0, 0, 3]
    assert figure.note == "bars: 95% t interval of the mean difference, 3 seeds; dots: one seed each"
    assert figure.axes[0].get_xlabel() == "Test accuracy (%):\ndifference to KD"
