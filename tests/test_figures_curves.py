"""Curves: their means, bars and bands, their labels, the teacher's size, and points of runs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import toy_figures
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from toy_figures import T_2, half_lengths, pairs, runs, teachers

from kd_lib import figures
from kd_lib.figures.curves import spread_apart

close_figures = toy_figures.close_figures  # for every test of this file


def error_bars(ax: plt.Axes) -> dict[str, ErrorbarContainer]:
    return {c.get_label(): c for c in ax.containers if isinstance(c, ErrorbarContainer)}


def test_lines_draws_means_and_intervals():
    figure = figures.lines(runs(), "tau", ["accuracy", "gap"], log_x=True)
    top, bottom = figure.axes
    kd = error_bars(top)["KD"]
    assert kd[0].get_xdata().tolist() == [1, 2, 4]
    assert kd[0].get_ydata().tolist() == [62, 63, 65]
    assert half_lengths(kd, 1) == pytest.approx(np.full(3, T_2 / 3**0.5))
    assert to_hex(kd[0].get_color()) == figures.METHOD_STYLES["kd"].colour.lower()
    assert kd[0].get_marker() == "o"
    assert list(error_bars(bottom)) == ["KD", "ATKD"]
    assert half_lengths(error_bars(bottom)["ATKD"], 1) == pytest.approx(np.full(3, 0.1 * T_2 / 3**0.5))
    assert (top.get_ylabel(), bottom.get_xlabel()) == ("Test accuracy (%)", "Temperature τ")
    assert figure.note == "bars and bands: 95% t interval of the mean, 3 seeds"
    assert [text.get_text() for text in bottom.get_xticklabels()] == ["1", "2", "4"]


def test_lines_shows_all_of_its_bars():
    figure = figures.lines(runs(), "tau", "accuracy", log_x=True)
    low, high = figure.axes[0].get_ylim()
    assert low < figure.numbers.eval("mean - half_width").min()
    assert high > figure.numbers.eval("mean + half_width").max()
    left, right = figure.axes[0].get_xlim()
    assert left < 1 < 4 < right < 8


def test_lines_with_standard_deviations_or_nothing():
    table = runs()[runs()["method"] == "kd"]
    figure = figures.lines(table, "tau", "accuracy", spread="std")
    assert half_lengths(error_bars(figure.axes[0])["KD"], 1) == pytest.approx(np.ones(3))
    assert figure.note == "bars: standard deviation, 3 seeds"
    bare = figures.lines(table, "tau", "accuracy", spread="none")
    assert not half_lengths(error_bars(bare.axes[0])["KD"], 1).size
    assert bare.note == ""
    with pytest.raises(ValueError, match=r"unknown spread: 'intervall'\. Did you mean 'interval'"):
        figures.lines(table, "tau", "accuracy", spread="intervall")


def test_a_method_without_x_is_a_level():
    figure = figures.lines(runs(), "tau", "accuracy")
    level = next(line for line in figure.axes[0].lines if line.get_label() == "Alone")
    assert list(level.get_ydata()) == [56, 56]
    box = figure.axes[0].patches[0].get_extents().transformed(figure.axes[0].transData.inverted())
    assert box.height / 2 == pytest.approx(T_2 / 3**0.5)
    some = runs()
    some.loc[0, "tau"] = None
    with pytest.raises(ValueError, match="tau is missing in some rows of KD"):
        figures.lines(some, "tau", "accuracy")


def test_many_places_make_a_band():
    table = pd.DataFrame({"method": "kd", "epoch": e, "seed": s, "gap": e + s} for e in range(20) for s in range(3))
    figure = figures.lines(table, "epoch", "gap")
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(1 - T_2 / 3**0.5)
    assert band[:, 1].max() == pytest.approx(20 + T_2 / 3**0.5)
    assert not error_bars(figure.axes[0])
    assert figure.note.startswith("bands: 95% t interval")


def test_one_seed_has_no_bars_and_says_so():
    figure = figures.lines(runs()[runs()["seed"] == 0], "tau", "accuracy")
    assert figure.note == "1 seed, so no bars and bands"


def test_different_numbers_of_seeds_are_told():
    figure = figures.dots(pairs().drop(index=0), "accuracy", panel="pair")
    assert figure.note == "bars: 95% t interval of the mean, 2 to 3 seeds; dots: one seed each"


def test_names_on_the_x_axis_stay_in_order():
    figure = figures.lines(teachers(), "teacher", "accuracy")
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["resnet14", "resnet20", "resnet110"]
    assert error_bars(figure.axes[0])["KD"][0].get_xdata().tolist() == [0, 1, 2]


def test_lines_refuses_what_would_vanish():
    table = runs()
    table.loc[table["method"] == "kd", "gap"] = np.nan
    with pytest.raises(ValueError, match="gap: no value at all of method kd, alone"):
        figures.lines(table, "tau", "gap")
    with pytest.raises(ValueError, match="a name is missing"):
        figures.lines(runs().assign(method=["kd", None] * 10 + ["kd"]), "tau", "accuracy")
    with pytest.raises(ValueError, match="unknown column: 'temperature'"):
        figures.lines(runs(), "temperature", "accuracy")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([0.2, 0.8], [0.2, 0.8]),  # room enough: nobody moves
        ([0.5, 0.5], [0.45, 0.55]),  # both move by half
        ([0.5, 0.44, 0.9], [0.52, 0.42, 0.9]),  # order kept, the third is not touched
        ([0.0, 0.0, 0.0], [0.0, 0.1, 0.2]),  # not below the axis
        ([1.0, 0.98], [1.0, 0.9]),  # nor above it
    ],
)
def test_labels_spread_apart(wanted, expected):
    assert spread_apart(wanted, 0.1) == pytest.approx(expected)


def test_labels_name_the_curves_at_their_height():
    figure = figures.lines(runs(), "tau", "accuracy")
    heights = {text.get_text(): text.xyann[1] for text in figure.axes[0].texts}
    assert heights["ATKD"] > heights["KD"] > heights["Alone"]


def test_numbers_as_labels_say_what_they_count():
    table = runs().dropna().assign(seed=lambda part: part["seed"] + 10 * (part["method"] == "kd"))
    figure = figures.lines(table, "seed", "accuracy", hue="tau", over=None)
    assert [text.get_text() for text in figure.axes[0].texts] == ["Temperature τ", "4", "1", "2"]


def test_capacity_names_teachers_at_their_size():
    figure = figures.capacity(teachers())
    assert [ax.get_ylabel() for ax in figure.axes] == ["Test accuracy (%)", "Sharpness gap (nats)"]
    assert figure.axes[1].get_xscale() == "log"
    assert figure.axes[1].get_xticks().tolist() == [181_108, 278_324, 1_736_564]
    labels = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert labels == ["resnet14 (181 k)", "resnet20 (278 k)", "resnet110 (1.7 M)"]
    assert error_bars(figure.axes[0])["KD"][0].get_ydata().tolist() == [61, 60, 59]
    clash = teachers().replace({"teacher": {"resnet14": "vgg8"}, "teacher_parameters": {181_108: 278_324}})
    with pytest.raises(ValueError, match="have the same teacher_parameters"):
        figures.capacity(clash)


def test_scatter_shows_runs_and_means():
    figure = figures.scatter(teachers(), "gap", "accuracy")
    runs_kd, mean_kd = figure.axes[0].collections[:2]
    kd = teachers()[teachers()["method"] == "kd"]
    assert np.array_equal(runs_kd.get_offsets(), kd[["gap", "accuracy"]])
    assert mean_kd.get_offsets().tolist() == [pytest.approx(kd[["gap", "accuracy"]].mean().tolist())]
    with pytest.raises(ValueError, match="not finite"):
        figures.scatter(teachers().assign(gap=np.nan), "gap", "accuracy")
