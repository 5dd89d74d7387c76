"""Effects of many units under each other: on which side of zero does each interval lie?"""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from kd_lib.figures.canvas import Drawing, finish, new_figure
from kd_lib.figures.spread import require_columns
from kd_lib.figures.style import GREEN, GREY, VERMILLION, MethodStyle, use_style

VERDICT_STYLES = {
    "holds": MethodStyle("holds", GREEN, "o"),
    "does not hold": MethodStyle("does not hold", VERMILLION, "X"),
    "undecided": MethodStyle("undecided", GREY, "D"),
}
ROW_HEIGHT = 0.25  # inches: two lines of a label
LABEL_CHARACTERS, LABEL_SIZE = 48, 6.0
NOTE = (
    "bars: 95% intervals; each row is scaled by its far end and turned so that the claimed side is right. "
    "Brackets: within them, on either side, a claim of 'about zero' holds"
)


@use_style()
def forest(table: pd.DataFrame, *, label: str = "sentence", text: str = "text") -> Drawing:
    """A row for each claim: its effect and interval on a scale of the row's own, coloured by its verdict.

    Args:
        table: one row a claim: effect, low, high, verdict ("holds", "does not hold", "undecided"; rows of other verdicts are
            left out of the picture), direction (1, -1, or 0 for "about zero") and, for direction 0, margin.
        label: the column of names.
        text: the column of the numbers in words, printed at the right.
    Returns:
        The figure; its numbers are the whole table.
    Raises:
        ValueError: a column is missing, or no row has such a verdict.
    """
    require_columns(table, [label, text, "effect", "low", "high", "verdict", "direction", "margin"])
    shown = table[table["verdict"].isin(VERDICT_STYLES)]
    if shown.empty:
        raise ValueError(f"no row has one of the verdicts {', '.join(VERDICT_STYLES)}")
    figure, axes = new_figure(1, 1, width="double", height=0.9 + ROW_HEIGHT * len(shown))
    ax = axes[0, 0]
    for i, row in enumerate(shown.to_dict("records")):
        _draw_row(ax, i, row)
        ax.text(1.15, i, row[text], va="center", fontsize=LABEL_SIZE)
    names = ["\n".join(textwrap.wrap(name, LABEL_CHARACTERS)) for name in shown[label]]
    ax.set_yticks(range(len(shown)), names, fontsize=LABEL_SIZE)
    ax.set_xticks([-0.55, 0, 0.55], ["against the claim", "0", "for the claim"])
    ax.set(xlim=(-1.1, 1.1), ylim=(len(shown) - 0.4, -0.6))
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.axvline(0, color="black", linewidth=0.8)
    _add_legend(figure, shown)
    return finish(figure, table, NOTE)


def _draw_row(ax: Axes, i: int, row: dict) -> None:
    style = VERDICT_STYLES[row["verdict"]]
    about_zero = row["direction"] == 0
    ends = np.array([row["low"], row["effect"], row["high"]], float) * (row["direction"] or 1)
    size = np.nanmax(np.abs([*ends, row["margin"] if about_zero else np.nan])) or 1.0
    ends = ends / size
    if np.isfinite(ends).all():
        ax.plot(ends[[0, 2]], [i, i], color=style.colour, linewidth=1.4, solid_capstyle="butt")
    ax.plot(ends[1], i, color=style.colour, marker=style.marker)
    for side, bracket in ((-1, "["), (1, "]")) if about_zero else ():
        place = {"ha": "center", "va": "center", "fontsize": 8, "color": "#444444"}
        ax.text(side * row["margin"] / size, i, bracket, **place)


def _add_legend(figure: Drawing, shown: pd.DataFrame) -> None:
    counts = shown["verdict"].value_counts()
    handles = [
        Line2D([], [], color=style.colour, marker=style.marker, label=f"{style.label}: {counts.get(name, 0)}")
        for name, style in VERDICT_STYLES.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
