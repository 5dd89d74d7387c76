"""The look of methods: colours that differ for everybody, and one look wherever a method stands."""

import itertools

import matplotlib
import numpy as np
import pytest
import toy_figures
from matplotlib.colors import to_rgb
from toy_figures import pairs

from kd_lib import figures
from kd_lib.figures.style import SPARE_COLOURS

close_figures = toy_figures.close_figures  # for every test of this file


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
