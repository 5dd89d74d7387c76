"""Numbers against numbers: curves, the teacher's size, points."""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from kd_lib.figures.canvas import Drawing, finish, new_figure
from kd_lib.figures.spread import SPREADS, mean_and_spread, require_columns, spread_note
from kd_lib.figures.style import MethodStyle, axis_label, styles, use_style

MOST_BARS = 12  # more places than this on the x axis: a band instead of error bars
DODGE = 2.6  # points between the error bars of neighbouring curves
LABEL_HEIGHT = 8.5  # points between two labels at the ends of curves


class Curve(NamedTuple):
    """One curve of a panel, ready to draw: its rows of the summary, its look, its sideways shift in points."""

    rows: pd.DataFrame
    style: MethodStyle
    shift: float


class End(NamedTuple):
    """Where a curve ends; a level has no x, it ends at the panel's edge."""

    x: float | None
    y: float


def _summary(table: pd.DataFrame, x: str, columns: Sequence[str], hue: str, over: str | None) -> pd.DataFrame:
    """One row for each quantity, hue and x; a hue without any value of a quantity is left out of that quantity."""
    require_columns(table, [x, hue, *columns])
    parts = []
    for column in columns:
        present = table.groupby(hue, sort=False)[column].transform("count") > 0
        part = mean_and_spread(table[present], [hue, x], column, over=over)
        parts.append(part.assign(quantity=column))
    result = pd.concat(parts, ignore_index=True)
    lost = [name for name in styles(table[hue]) if name not in set(result[hue])]
    if lost:
        raise ValueError(f"{', '.join(columns)}: no value at all of {hue} {', '.join(map(str, lost))}")
    return result[["quantity", hue, x, "mean", "std", "n", "half_width"]]


def _positions(x: pd.Series) -> dict[Hashable, float]:
    """Where each value stands: numbers at themselves, names side by side in order of first appearance."""
    values = list(dict.fromkeys(x.dropna()))
    if pd.api.types.is_numeric_dtype(x):
        return {value: float(value) for value in sorted(values)}
    return {value: float(i) for i, value in enumerate(values)}


def _draw_curve(ax: Axes, curve: Curve, x: str, places: dict[Hashable, float], error: str | None) -> End:
    """Draws one curve, or a level across the panel where it has no x."""
    style, rows = curve.style, curve.rows
    look = {"color": style.colour, "linestyle": style.line, "label": style.label}
    level = rows[rows[x].isna()]
    if 0 < len(level) < len(rows):
        raise ValueError(f"{x} is missing in some rows of {style.label}: in all (a level) or in none (a curve)")
    if len(level):
        mean = float(level["mean"].iloc[0])
        half = float(level[error].iloc[0]) if error else np.nan
        ax.axhline(mean, **look)
        if np.isfinite(half):
            ax.axhspan(mean - half, mean + half, color=style.colour, alpha=0.12, linewidth=0)
        return End(None, mean)
    at = rows[x].map(places).to_numpy(float)
    order = np.argsort(at)
    at, mean = at[order], rows["mean"].to_numpy()[order]
    half = rows[error].to_numpy()[order] if error else np.full(len(at), np.nan)
    if len(places) > MOST_BARS:
        ax.plot(at, mean, **look)
        ax.fill_between(at, mean - half, mean + half, color=style.colour, alpha=0.18, linewidth=0)
        return End(at[-1], mean[-1])
    reach = np.nan_to_num(half)
    ax.update_datalim(np.column_stack([np.tile(at, 2), np.r_[mean - reach, mean + reach]]))  # `shifted` hides it
    shifted = ax.transData + ScaledTranslation(curve.shift / 72, 0, ax.get_figure().dpi_scale_trans)
    ax.errorbar(at, mean, yerr=half, marker=style.marker, elinewidth=0.9, transform=shifted, **look)
    ax.margins(x=0.09)  # room for the sideways shifts
    return End(at[-1], mean[-1])


def spread_apart(wanted: Sequence[float], gap: float) -> np.ndarray:
    """Positions in 0..1, in the order of the wanted ones and at least `gap` apart, with the least sum of squared moves.

    Subtracting `gap` for each rank leaves an isotonic regression, solved by pooling neighbours that stand too close.
    Where there is no room for all, they start at 0 and pass 1.
    """
    order = np.argsort(wanted, kind="stable")
    pools: list[list[float]] = []  # [mean, count] of neighbours that touch
    for rank, place in enumerate(np.asarray(wanted, float)[order]):
        pools.append([place - rank * gap, 1])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            mean, count = pools.pop()
            pools[-1] = [(pools[-1][0] * pools[-1][1] + mean * count) / (pools[-1][1] + count), pools[-1][1] + count]
    level = np.concatenate([np.full(int(count), mean) for mean, count in pools])
    result = np.empty(len(order))
    result[order] = np.clip(level, 0, max(0, 1 - gap * (len(order) - 1))) + gap * np.arange(len(order))
    return result


def _label_ends(ax: Axes, ends: Sequence[End], looks: Sequence[MethodStyle]) -> None:
    """Writes each curve's name at the right, tied to the curve's end by a line of its colour."""
    points = ax.bbox.height * 72 / ax.get_figure().dpi
    low, high = ax.get_ylim()
    wanted = [(end.y - low) / (high - low) for end in ends]
    for end, place, style in zip(ends, spread_apart(wanted, LABEL_HEIGHT / points), looks, strict=True):
        tie = {"arrowstyle": "-", "color": style.colour, "linewidth": 0.8, "linestyle": ":", "shrinkA": 1}
        if end.x is None:
            tip = {"xy": (1, end.y), "xycoords": ("axes fraction", "data"), "arrowprops": {**tie, "shrinkB": 0}}
        else:
            tip = {"xy": (end.x, end.y), "arrowprops": {**tie, "shrinkB": 4}}
        ax.annotate(style.label, **tip, xytext=(1.05, place), textcoords="axes fraction", va="center", fontsize=7)


def _draw_panel(
    ax: Axes,
    part: pd.DataFrame,
    columns: tuple[str, str],
    looks: Mapping[Hashable, MethodStyle],
    places: dict[Hashable, float],
    error: str | None,
) -> list[tuple[End, MethodStyle]]:
    """All curves of one quantity, from its rows of the summary and the columns (x, hue); their ends and looks."""
    x, hue = columns
    present = [name for name in looks if (part[hue] == name).any()]
    ends = []
    for i, name in enumerate(present):
        curve = Curve(part[part[hue] == name], looks[name], DODGE * (i - (len(present) - 1) / 2))
        ends.append((_draw_curve(ax, curve, x, places, error), looks[name]))
    return ends


@use_style()
def lines(
    table: pd.DataFrame,
    x: str,
    y: str | Sequence[str],
    *,
    hue: str = "method",
    over: str | None = "seed",
    spread: str = "interval",
    log_x: bool = False,
    labels: Mapping[str, str] | None = None,
    width: str = "single",
    ticks: Mapping[float, str] | None = None,
) -> Drawing:
    """Curves of means over x, one for each entry of `hue`; several quantities stand in panels one above the other.

    Args:
        table: one row a run (and epoch).
        x: numbers, or names that stand side by side in the table's order. Where it is missing, the method has no such
            setting and is drawn as a level.
        y: a column or several; a method that has no value of one at all is left out of that panel.
        hue: the column that tells curves apart.
        over: the column of repetitions; None for numbers without any, such as a formula's.
        spread: error bars, or a band from 13 places on: "interval" (95% t interval of the mean), "std", "none".
        log_x: logarithmic axis.
        labels: axis labels by column, instead of the usual ones.
        width: "single" or "double" column.
        ticks: names for places on the x axis.
    Returns:
        The figure; its numbers are quantity, hue, x, mean, std, n, half_width.
    Raises:
        ValueError: a column is missing, a value is not finite, a repetition stands twice.
    """
    columns = [y] if isinstance(y, str) else list(y)
    numbers = _summary(table, x, columns, hue, over)
    places, looks = _positions(table[x]), styles(numbers[hue])
    shape = "bands" if len(places) > MOST_BARS else "bars and bands" if numbers[x].isna().any() else "bars"
    note = spread_note(numbers, spread, shape=shape, over=over)
    figure, axes = new_figure(len(columns), 1, width=width, height=0.9 + 1.55 * len(columns), sharex=True)
    ends = {}
    for ax, column in zip(axes[:, 0], columns, strict=True):
        part = numbers[numbers["quantity"] == column]
        ends[ax] = _draw_panel(ax, part, (x, hue), looks, places, SPREADS[spread] if over else None)
        ax.set_ylabel(axis_label(column, labels))
    _set_x(axes[-1, 0], table[x], places, log_x, ticks)
    axes[-1, 0].set_xlabel(axis_label(x, labels))
    if pd.api.types.is_numeric_dtype(table[hue]) and len(looks) > 1:
        axes[0, 0].text(1.05, 1.05, axis_label(hue, labels), transform=axes[0, 0].transAxes, fontsize=7)
    figure.align_ylabels()
    finish(figure, numbers, note)
    figure.draw_without_rendering()  # the layout gives panels their height, which the labels are spread over
    for ax, found in ends.items():
        if len(looks) > 1:
            _label_ends(ax, *zip(*found, strict=True))
    return figure


def _set_x(
    ax: Axes, x: pd.Series, places: dict[Hashable, float], log_x: bool, ticks: Mapping[float, str] | None
) -> None:
    """Scale and ticks of the x axis: few values get a tick each."""
    if log_x:
        ax.set_xscale("log")
    if ticks:
        ax.set_xticks(list(ticks), list(ticks.values()), rotation=35, ha="right", rotation_mode="anchor")
    elif not pd.api.types.is_numeric_dtype(x):
        ax.set_xticks(list(places.values()), [str(name) for name in places])
    elif len(places) <= 8:
        ax.set_xticks(list(places.values()), [f"{place:g}" for place in places.values()])
    if log_x or ticks:
        ax.minorticks_off()


def capacity(
    table: pd.DataFrame,
    *,
    y: Sequence[str] = ("accuracy", "gap"),
    size: str = "teacher_parameters",
    teacher: str = "teacher",
    hue: str = "method",
    spread: str = "interval",
    labels: Mapping[str, str] | None = None,
    width: str = "single",
) -> Drawing:
    """The student's accuracy and gap against the teacher's size, one above the other.

    Shows where a method stops to profit from a bigger teacher.

    Args:
        table: one row a run; a row without a size (a network trained alone) is drawn as a level.
        y: the panels' columns, from top to bottom.
        size: the teacher's parameters, on a logarithmic axis.
        teacher: the teacher's name, one for each size.
        hue, spread, labels, width: as in `lines`.
    Raises:
        ValueError: as in `lines`; one size belongs to two teachers.
    """
    require_columns(table, [size, teacher])
    pairs = table[[size, teacher]].dropna().drop_duplicates()
    if pairs[size].duplicated().any():
        clash = pairs[pairs[size].duplicated(keep=False)][teacher].tolist()
        raise ValueError(f"teachers {clash} have the same {size}")
    ticks = {float(row[size]): f"{row[teacher]} ({_short(row[size])})" for _, row in pairs.sort_values(size).iterrows()}
    return lines(table, size, y, hue=hue, spread=spread, log_x=True, labels=labels, width=width, ticks=ticks)


def _short(parameters: float) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"


@use_style()
def scatter(
    table: pd.DataFrame,
    x: str,
    y: str,
    *,
    hue: str = "method",
    labels: Mapping[str, str] | None = None,
    width: str = "single",
) -> Drawing:
    """One point a run, and a larger one at each method's mean: does a smaller gap go with a better student?

    Returns:
        The figure; its numbers are hue, x, y and the two means of the row's hue, `mean_x` and `mean_y`.
    Raises:
        ValueError: a column is missing, a value is not finite.
    """
    require_columns(table, [x, y, hue])
    if not np.isfinite(table[[x, y]].to_numpy(float)).all():
        raise ValueError(f"{x} or {y} holds a value that is not finite")
    means = table.groupby(hue, sort=False)[[x, y]].transform("mean")
    numbers = table[[hue, x, y]].assign(**{f"mean_{x}": means[x], f"mean_{y}": means[y]})
    figure, axes = new_figure(1, 1, width=width, height=2.5)
    ax = axes[0, 0]
    handles = []
    for name, style in styles(table[hue]).items():
        part = numbers[numbers[hue] == name]
        ax.scatter(part[x], part[y], s=11, color=style.colour, marker=style.marker, alpha=0.6, linewidth=0)
        mean = part[[f"mean_{x}", f"mean_{y}"]].iloc[0]
        ax.scatter(*mean, s=42, color=style.colour, marker=style.marker, edgecolor="white", linewidth=0.6)
        handles.append(Line2D([], [], color=style.colour, marker=style.marker, linestyle="", label=style.label))
    figure.legend(handles=handles, loc="outside right upper")
    ax.set(xlabel=axis_label(x, labels), ylabel=axis_label(y, labels))
    return finish(figure, numbers, "small: one run each; large: the mean")
