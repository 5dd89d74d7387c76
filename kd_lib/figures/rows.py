"""One row a method: every run's point, the mean and its interval."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from kd_lib.errors import unknown
from kd_lib.figures.canvas import Drawing, finish, new_figure
from kd_lib.figures.spread import SPREADS, mean_and_spread, paired_values, require_spread, spread_note
from kd_lib.figures.style import MethodStyle, axis_label, styles, use_style

ROW_HEIGHT = 0.24  # inches
LOWER = 0.24  # the runs' points stand this part of a row below their mean


def _draw_rows(
    ax: Axes, part: pd.DataFrame, value: str, by: str, looks: Mapping[Hashable, MethodStyle], error: str | None
) -> None:
    """Mean with its bar and, below it, each run."""
    for i, (name, style) in enumerate(looks.items()):
        rows = part[part[by] == name]
        if rows.empty:
            continue
        mean = rows["mean"].iloc[0]
        half = np.nan_to_num(rows[error].iloc[:1]) if error else None
        ax.errorbar(mean, i, xerr=half, color=style.colour, marker=style.marker, linestyle="", elinewidth=1.1, zorder=3)
        ax.scatter(rows[value], np.full(len(rows), i + LOWER), s=7, color=style.colour, alpha=0.55, linewidth=0)


@use_style()
def dots(
    table: pd.DataFrame,
    value: str,
    *,
    by: str = "method",
    panel: str | None = None,
    over: str | None = "seed",
    spread: str = "interval",
    baseline: Hashable | None = None,
    labels: Mapping[str, str] | None = None,
    width: str = "single",
) -> Drawing:
    """A row for each method: its mean, error bar and every run.

    The axis need not start at zero, so small differences stay visible.

    Args:
        table: one row a run; rows of the figure follow the table's order from top to bottom.
        value: the column on the horizontal axis.
        by: the column that makes the rows.
        panel: a column whose entries stand side by side ("pair" of networks); a method may be absent from some.
        over: the column of repetitions; None where there are none, as in a paper's table.
        spread: "interval" (95% t interval of the mean), "std", "none".
        baseline: a row whose mean is drawn as a line through its panel.
        labels, width: as in `lines`.
    Returns:
        The figure; its numbers are the runs, each with mean, std, n and half_width of its row.
    Raises:
        ValueError: a column or the baseline is missing, a value is not finite, a repetition stands twice.
    """
    require_spread(spread)
    groups = [by] if panel is None else [panel, by]
    summary = mean_and_spread(table, groups, value, over=over)
    if baseline is not None and baseline not in set(table[by]):
        raise unknown(f"baseline in {by}", baseline, table[by].unique())
    numbers = table[[*groups, *([over] if over else []), value]].merge(summary, on=groups, how="left")
    looks = styles(table[by])
    parts = [(None, numbers)] if panel is None else list(numbers.groupby(panel, sort=False))
    label = axis_label(value, labels)
    height = 1.0 + ROW_HEIGHT * len(looks) + 0.15 * (bool(panel) + label.count("\n"))
    figure, axes = new_figure(1, len(parts), width=width, height=height, sharey=True)
    for ax, (name, part) in zip(axes[0], parts, strict=True):
        _draw_rows(ax, part, value, by, looks, SPREADS[spread] if over else None)
        for mean in part[part[by] == baseline]["mean"].iloc[:1] if baseline is not None else ():
            ax.axvline(mean, color=looks[baseline].colour, linewidth=0.8, linestyle=":")
        ax.set(title=name, xlabel=label)
        _name_rows(ax, [style.label for style in looks.values()])
    return finish(figure, numbers, _note(numbers, spread, over))


def _note(numbers: pd.DataFrame, spread: str, over: str | None, of: str = "mean") -> str:
    """What bars and points are; empty where nothing was repeated."""
    bars = spread_note(numbers, spread, of=of, over=over)
    return "; ".join(filter(None, [bars, f"dots: one {over} each"])) if over else ""


def _name_rows(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)  # the first row on top
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)


@use_style()
def differences(
    table: pd.DataFrame,
    value: str,
    *,
    baseline: Hashable,
    by: str = "method",
    panel: str | None = None,
    pair: str = "seed",
    labels: Mapping[str, str] | None = None,
    width: str = "single",
) -> Drawing:
    """How far each method lies from the baseline, in pairs of equal seed; an interval that leaves zero out decides.

    Args:
        table: one row a run, the baseline's runs among them.
        value, by, panel, labels, width: as in `dots`.
        baseline: the entry of `by` that is subtracted.
        pair: the column that pairs the runs.
    Returns:
        The figure; its numbers are the pairs' differences, each with mean, std, n and half_width of its row.
    Raises:
        ValueError: as `paired_values`.
    """
    pairs = paired_values(table, by, value, baseline=baseline, pair=pair, within=[panel] if panel else [])
    name = styles([baseline])[baseline].label
    label = f"{axis_label(value, labels)}:\ndifference to {name}"
    figure = dots(pairs, "difference", by=by, panel=panel, over=pair, labels={"difference": label}, width=width)
    for ax in figure.axes:
        ax.axvline(0, color="black", linewidth=0.8)
    return finish(figure, figure.numbers, _note(figure.numbers, "interval", pair, of="mean difference"))
