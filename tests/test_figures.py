"""Figures: the numbers beside them, their look, and that equal input gives equal bytes."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.container import ErrorbarContainer

from kd_lib import figures
from kd_lib.figures import canvas
from kd_lib.figures.curves import spread_apart
from kd_lib.figures.style import SPARE_COLOURS

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


def drawings() -> dict[str, figures.Drawing]:
    """One small figure of each kind."""
    places = np.linspace(-1, 1, 14).reshape(7, 2)
    epochs = pd.DataFrame({"tau": t, "epoch": e, "kl": t / e, "seed": 0} for t in (1, 2, 4) for e in range(1, 21))
    spread = {"kd": np.linspace(0, 4, 50), "pesf_kd": np.linspace(1, 3, 50)}
    return {
        "lines": figures.lines(runs(), "tau", ["accuracy", "gap"], log_x=True),
        "shades": figures.lines(epochs, "epoch", "kl", hue="tau", width="double"),
        "capacity": figures.capacity(teachers()),
        "scatter": figures.scatter(teachers(), "gap", "accuracy"),
        "dots": figures.dots(pairs(), "accuracy", panel="pair", baseline="kd", width="double"),
        "differences": figures.differences(pairs(), "accuracy", baseline="kd", panel="pair"),
        "logits": figures.logit_distribution({"student": spread, "teacher": {"kd": spread["kd"]}}),
        "tsne": figures.tsne({"kd": places, "ft_kd": 2 * places}, np.arange(7), DIGITS[30:37]),
        "heatmap": figures.heatmap([[0.1, 0.9], [0.5, 0.6]], ["kd", "atkd"], ["resnet14", "resnet20"], label="CKA"),
        "images": figures.image_grid(images(), ["03", "37", "99"], columns=3),
        "soft": figures.soft_labels({"kd": soft_label()}, DIGITS, 37, related=[38], width="single"),
    }


def save_all(folder: str) -> None:
    for name, figure in drawings().items():
        figures.save(figure, name, scale="smoke", caption="made up, 3 seeds", folder=folder)


def error_bars(ax: plt.Axes) -> dict[str, ErrorbarContainer]:
    return {c.get_label(): c for c in ax.containers if isinstance(c, ErrorbarContainer)}


def half_lengths(container: ErrorbarContainer, axis: int) -> np.ndarray:
    return np.array([np.ptp(segment[:, axis]) / 2 for segment in container[2][0].get_segments() if len(segment)])


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


# Style


def simulate_deuteranopia(colour: str) -> np.ndarray:
    """CIE Lab of a colour as seen without the green-sensitive cones (Machado, Oliveira, Fernandes 2009, severity 1)."""
    seen = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    c = np.array(to_rgb(colour))
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    white = np.array(xyz).sum(axis=1)
    ratio = np.array(xyz) @ np.clip(np.array(seen) @ linear, 0, 1) / white
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def smallest_distance(colours: list[str]) -> float:
    return min(
        np.linalg.norm(simulate_deuteranopia(a) - simulate_deuteranopia(b))
        for a, b in itertools.combinations(colours, 2)
    )


def test_colours_differ_under_deuteranopia():
    assert smallest_distance(["#FF0000", "#A08000"]) < 15  # the measure sees that a red and an olive are confused
    core = [figures.METHOD_STYLES[name].colour for name in ("teacher", "alone", "kd", "atkd", "ft_kd", "pesf_kd")]
    assert smallest_distance(core) > 24
    assert smallest_distance(list(SPARE_COLOURS)) > 17


def test_no_two_methods_look_alike():
    looks = figures.METHOD_STYLES.values()
    assert len({(look.colour, look.marker) for look in looks}) == len(looks)
    assert len({look.label for look in looks}) == len(looks)


def test_a_method_looks_the_same_beside_any_other():
    assert figures.styles(["atkd", "kd"])["kd"] == figures.styles(["kd"])["kd"] == figures.METHOD_STYLES["kd"]


def test_unknown_names_get_distinct_looks_in_order():
    names = ["kd", *[f"new{i}" for i in range(20)]]
    looks = figures.styles(names)
    assert list(looks) == names
    assert looks == figures.styles(names)
    assert looks["new0"].label == "new0"
    assert looks["kd"].colour not in {looks[f"new{i}"].colour for i in range(6)}
    assert len({(look.colour, look.marker) for look in looks.values()}) == 21


def test_numbers_are_shaded_by_size():
    looks = figures.styles([4.0, 1.0, 2.0])
    light = {tau: sum(to_rgb(look.colour)) for tau, look in looks.items()}
    assert light[1.0] < light[2.0] < light[4.0]
    assert looks[4.0].label == "4"


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_name_is_an_error(missing):
    with pytest.raises(ValueError, match="a name is missing"):
        figures.styles(["kd", missing])


def test_style_stays_inside():
    before = dict(matplotlib.rcParams)
    figures.dots(pairs(), "accuracy", panel="pair")
    assert dict(matplotlib.rcParams) == before


# Curves


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


# Panels


def test_logit_distribution_integrates_to_one():
    values = {"kd": np.array([0.0, 1.0, 1.0, 4.0]), "atkd": np.array([2.0, 3.0])}
    figure = figures.logit_distribution({"student": values, "teacher": {"kd": np.array([1.0, 2.0])}}, bins=4)
    numbers = figure.numbers
    assert numbers["low"].iloc[:4].tolist() == [0, 1, 2, 3]  # the range of all panels
    assert numbers.query("panel == 'student' and method == 'kd'")["density"].tolist() == [0.25, 0.5, 0, 0.25]
    area = (
        (numbers["density"] * (numbers["high"] - numbers["low"])).groupby([numbers["panel"], numbers["method"]]).sum()
    )
    assert area.tolist() == pytest.approx([1, 1, 1])
    assert [len(ax.patches) for ax in figure.axes] == [2, 1]
    assert figure.axes[0].patches[0].get_data().values.tolist() == [0.25, 0.5, 0, 0.25]
    with pytest.raises(ValueError, match="student of 'kd' holds a value that is not finite"):
        figures.logit_distribution({"student": {"kd": [1.0, np.nan]}})


def test_logit_distribution_names_every_method_once():
    figure = figures.logit_distribution({"student": {"kd": [0.0, 1.0]}, "teacher": {"kd": [0.0, 1.0], "ft_kd": [0.5]}})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["KD", "FT-KD"]


def test_tsne_gives_a_class_one_colour():
    places = np.arange(8.0).reshape(4, 2)
    figure = figures.tsne({"kd": places, "ft_kd": places + 1}, [1, 0, 1, 2], ["cat", "dog", "owl"])
    first, second = (
        {to_hex(c.get_facecolor()[0]): c.get_offsets().tolist() for c in ax.collections} for ax in figure.axes[:2]
    )
    assert list(first) == list(second)
    assert list(first.values()) == [[[2, 3]], [[0, 1], [4, 5]], [[6, 7]]]
    assert figure.numbers["class"].tolist() == ["dog", "cat", "dog", "owl"] * 2
    assert figure.numbers["x"].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    with pytest.raises(ValueError, match="8 classes: more than the 7 colours"):
        figures.tsne({"kd": places}, [0] * 4, list("abcdefgh"))
    with pytest.raises(ValueError, match=r"shape \(4, 2\), not \(3, 2\)"):
        figures.tsne({"kd": places}, [0] * 3, ["a"])


def test_heatmap_writes_its_numbers():
    figure = figures.heatmap([[0.123, 0.9], [0.5, 0.6]], ["kd", "atkd"], ["x", "y"], label="CKA")
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.12", "0.90", "0.50", "0.60"]
    assert [text.get_color() for text in figure.axes[0].texts[:2]] == ["white", "black"]  # on dark blue, on yellow
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["KD", "ATKD"]
    assert figure.numbers.query("row == 'kd' and column == 'y'")["value"].tolist() == [0.9]
    assert figure.axes[0].collections[0].get_array().ravel().tolist() == [0.123, 0.9, 0.5, 0.6]
    with pytest.raises(ValueError, match="3 row and 2 column names"):
        figures.heatmap([[0.1, 0.9]], ["a", "b", "c"], ["x", "y"], label="CKA")


def test_image_grid_shows_the_pixels():
    figure = figures.image_grid(images(), ["03", "37", "99"], columns=2)
    assert np.array_equal(figure.axes[1].images[0].get_array(), images()[1, 0])
    assert [ax.get_title() for ax in figure.axes] == ["03", "37", "99", ""]
    second = figure.numbers[figure.numbers["title"] == "37"]
    assert np.array_equal(second[["x0", "x1", "x2", "x3", "x4"]], images()[1, 0])
    colour = figures.image_grid(images().reshape(1, 3, 4, 5), ["all"])
    assert colour.axes[0].images[0].get_array()[1, 2].tolist() == [7, 27, 47]
    with pytest.raises(ValueError, match="float64: expected"):
        figures.image_grid(images() / 255, ["03", "37", "99"])
    with pytest.raises(ValueError, match="3 images, but 1 titles"):
        figures.image_grid(images(), ["03"])


def test_soft_labels_show_the_right_class_and_the_rest():
    figure = figures.soft_labels({"kd": soft_label(), "teacher": soft_label(36)}, DIGITS, 36, top=2, related=[38])
    kd, teacher = figure.axes
    assert [text.get_text() for text in kd.get_yticklabels()] == ["37", "36"]  # most probable for kd, and the right one
    assert [bar.get_width() for bar in teacher.patches] == pytest.approx([0.2 / 98, 0.5])
    assert figure.numbers["kind"].tolist() == ["other", "true", "rest"] * 2
    assert figure.numbers.groupby("name")["probability"].sum().tolist() == pytest.approx([1, 1])
    assert teacher.get_xlabel() == "Probability\n(98 more classes: 0.498)"
    with pytest.raises(ValueError, match="sum 2"):
        figures.soft_labels({"kd": 2 * soft_label()}, DIGITS, 36)


# Files


def test_save_writes_three_files_that_agree(tmp_path):
    figure = figures.dots(pairs(), "accuracy", panel="pair")
    path = figures.save(figure, "by_method", scale="demo", caption="digits100, 10 epochs, 3 seeds", folder=tmp_path)
    assert path == tmp_path / "demo" / "by_method.svg"
    assert sorted(file.name for file in path.parent.iterdir()) == ["by_method.csv", "by_method.png", "by_method.svg"]
    pd.testing.assert_frame_equal(pd.read_csv(path.with_suffix(".csv")), figure.numbers, check_exact=True)
    assert figure._supxlabel.get_text().endswith("\ndemo scale: digits100, 10 epochs, 3 seeds")
    assert plt.fignum_exists(figure.number)
    svg = path.read_text()
    assert "<text" not in svg and "dc:date" not in svg and "Matplotlib v" not in svg
    png = path.with_suffix(".png").read_bytes()
    assert png.startswith(b"\x89PNG") and b"tEXt" not in png


def test_saving_twice_changes_nothing(tmp_path):
    figure = figures.lines(runs(), "tau", ["accuracy", "gap"], log_x=True)
    path = figures.save(figure, "twice", scale="demo", folder=tmp_path)
    first = path.read_bytes(), path.with_suffix(".png").read_bytes()
    figures.save(figure, "twice", scale="demo", folder=tmp_path)
    assert (path.read_bytes(), path.with_suffix(".png").read_bytes()) == first


def test_save_stands_under_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "project_root", lambda: tmp_path)
    path = figures.save(figures.dots(pairs(), "accuracy", panel="pair"), "plain", scale="smoke")
    assert path == Path("figures/smoke/plain.svg")  # no machine's folder in a notebook's output
    assert (tmp_path / path).is_file()


def test_a_foreign_figure_needs_its_numbers(tmp_path):
    with figures.use_style():
        figure, ax = plt.subplots()
        ax.plot([0, 1], [2, 3])
    with pytest.raises(ValueError, match="'mine' brings no numbers"):
        figures.save(figure, "mine", scale="demo", folder=tmp_path)
    path = figures.save(figure, "mine", pd.DataFrame({"x": [0, 1], "y": [2, 3]}), scale="demo", folder=tmp_path)
    assert path.with_suffix(".csv").read_text() == "x,y\n0,2\n1,3\n"


@pytest.mark.parametrize("names", [{"name": "../up", "scale": "demo"}, {"name": "fig", "scale": "demo/x"}])
def test_names_are_plain_file_names(names, tmp_path):
    with pytest.raises(ValueError, match="is not made of small letters"):
        figures.save(figures.dots(pairs(), "accuracy", panel="pair"), **names, folder=tmp_path)


def test_widths_are_columns():
    assert figures.dots(pairs(), "accuracy", panel="pair", width="double").get_figwidth() == 6.9
    with pytest.raises(ValueError, match="unknown figure width: 'wide'"):
        figures.dots(pairs(), "accuracy", panel="pair", width="wide")


def test_bytes_are_equal_in_a_fresh_process(tmp_path):
    save_all(tmp_path / "here")
    code = "import sys, test_figures; test_figures.save_all(sys.argv[1])"
    places = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": places}
    subprocess.run([sys.executable, "-c", code, tmp_path / "there"], check=True, env=environment)
    files = sorted((tmp_path / "here" / "smoke").iterdir())
    assert len(files) == 3 * 11
    for file in files:
        assert file.read_bytes() == (tmp_path / "there" / "smoke" / file.name).read_bytes(), file.name


def visible_words(figure: figures.Drawing) -> list[matplotlib.text.Text]:
    """All text that is drawn; tick labels beyond the ends of an axis, or of axes turned off, are not."""
    hidden = []
    for axis, side in ((axis, side) for ax in figure.axes for axis, side in ((ax.xaxis, 0), (ax.yaxis, 1))):
        low, high = axis.axes.bbox.get_points()[:, side]
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (label for tick in ticks for label in (tick.label1, tick.label2)):
            place = label.get_transform().transform(label.get_position())[side]
            hidden += [] if axis.axes.axison and low - 1 <= place <= high + 1 else [label]
    words = figure.findobj(lambda artist: isinstance(artist, matplotlib.text.Text) and artist.get_visible())
    return [text for text in words if text.get_text().strip() and text not in hidden]


def test_words_stay_on_the_page_and_apart():
    for name, figure in drawings().items():
        canvas.set_foot(figure, figure.note, "smoke scale: made up")
        figure.draw_without_rendering()
        page = figure.bbox.padded(1)
        boxes = [
            (text.get_text(), matplotlib.text.Text.get_window_extent(text), text.get_rotation())  # without its arrow
            for text in visible_words(figure)
        ]
        for text, box, _ in boxes:
            assert page.x0 <= box.x0 <= box.x1 <= page.x1, f"{name}: {text!r} leaves the page"
            assert page.y0 <= box.y0 <= box.y1 <= page.y1, f"{name}: {text!r} leaves the page"
        for (one, a, turn_a), (other, b, turn_b) in itertools.combinations(boxes, 2):
            if turn_a == turn_b == 0:
                shared = min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
                assert not shared, f"{name}: {one!r} covers {other!r}"
