"""The forest plot: every decided claim a row, turned to the claimed side, on a scale of its own."""

import math

import pandas as pd
import pytest
import toy_figures
from matplotlib.colors import to_hex

from kd_lib import figures
from kd_lib.figures.forest import VERDICT_STYLES

close_figures = toy_figures.close_figures  # for every test of this file


def verdicts() -> pd.DataFrame:
    nan = math.nan
    rows = [
        ("sharper", "+2 [1, 4] nats", 2.0, 1.0, 4.0, "holds", 1, nan),
        ("narrower", "-2 [-4, -1] nats", -2.0, -4.0, -1.0, "holds", -1, nan),
        ("better", "-3 [-5, -1] points", -3.0, -5.0, -1.0, "does not hold", 1, nan),
        ("alike", "+0.1 [-0.1, 0.3] points", 0.1, -0.1, 0.3, "holds", 0, 0.5),
        ("later", "", nan, nan, nan, "not run", 1, nan),
        ("once", "+1.6 points, no interval", 1.6, nan, nan, "undecided", 1, nan),
    ]
    names = ["sentence", "text", "effect", "low", "high", "verdict", "direction", "margin"]
    return pd.DataFrame(rows, columns=names)


def drawn(figure) -> tuple[list, list]:
    """Bars and points of the one panel, in the order of rows."""
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) <= 2 and line.get_color() != "black"]
    return [line for line in lines if len(line.get_xdata()) == 2], [
        line for line in lines if len(line.get_xdata()) == 1
    ]


def test_rows_are_turned_to_the_claimed_side_and_scaled_by_their_far_end():
    bars, points = drawn(figures.forest(verdicts()))
    assert [list(bar.get_xdata()) for bar in bars] == [[0.25, 1.0], [1.0, 0.25], [-1.0, -0.2], [-0.2, 0.6]]
    assert [float(point.get_xdata()[0]) for point in points] == [0.5, 0.5, -0.6, 0.2, 1.0]
    assert [float(point.get_ydata()[0]) for point in points] == [0, 1, 2, 3, 4]


def test_the_colour_is_the_verdict():
    _, points = drawn(figures.forest(verdicts()))
    names = ["holds", "holds", "does not hold", "holds", "undecided"]
    assert [to_hex(p.get_color()).upper() for p in points] == [VERDICT_STYLES[n].colour.upper() for n in names]
    assert len({style.marker for style in VERDICT_STYLES.values()}) == 3, "told apart without colour"


def test_names_numbers_margins_and_counts_stand_beside():
    figure = figures.forest(verdicts())
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["sharper", "narrower", "better", "alike", "once"]
    texts = [t.get_text() for t in ax.texts]
    assert "-3 [-5, -1] points" in texts
    brackets = {t.get_text(): t.get_position() for t in ax.texts if t.get_text() in "[]"}
    assert brackets == {"[": (-1.0, 3), "]": (1.0, 3)}
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == ["holds: 3", "does not hold: 1", "undecided: 1"]
    assert "95% intervals" in figure.note


def test_its_numbers_are_the_whole_table(tmp_path):
    figure = figures.forest(verdicts())
    pd.testing.assert_frame_equal(figure.numbers, verdicts())
    figures.save(figure, "claims", scale="demo", folder=tmp_path)
    assert len(pd.read_csv(tmp_path / "demo" / "claims.csv")) == 6


def test_an_effect_of_zero_without_spread_is_drawn_at_zero():
    table = verdicts().iloc[:1].assign(effect=0.0, low=0.0, high=0.0, verdict="undecided")
    bars, points = drawn(figures.forest(table))
    assert list(bars[0].get_xdata()) == [0, 0]
    assert points[0].get_xdata()[0] == 0


def test_what_cannot_be_drawn_is_told():
    with pytest.raises(ValueError, match="margin"):
        figures.forest(verdicts().drop(columns="margin"))
    with pytest.raises(ValueError, match="no row has one of the verdicts"):
        figures.forest(verdicts().assign(verdict="not run"))
