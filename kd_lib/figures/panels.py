"""Panels side by side: distributions, maps of points, tables of colours."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from kd_lib.figures.canvas import Drawing, finish, legend_above, new_figure
from kd_lib.figures.style import SPARE_COLOURS, SPARE_MARKERS, WIDTHS, styles, use_style

LETTERS = 11  # of tick labels side by side in an inch of a heatmap's width


@use_style()
def logit_distribution(
    sides: Mapping[str, Mapping[str, ArrayLike]],
    *,
    bins: int = 40,
    label: str = "Normalised largest logit",
    width: str = "double",
) -> Drawing:
    """How one number a sample is spread, for each method.

    One panel for the student, one for the teacher: PESF v1 Fig. 2, v2 Fig. 2.

    Args:
        sides: panel -> method -> [N] values, as {"student": {"kd": ..., "pesf_kd": ...}, "teacher": {...}}.
        bins: equal parts of the range that all panels share.
        label: of the horizontal axis.
    Returns:
        The figure; its numbers are panel, method, low, high, density, one row a bin.
    Raises:
        ValueError: a value is not finite.
    """
    values = {
        (side, method): np.asarray(v, float).ravel() for side, group in sides.items() for method, v in group.items()
    }
    for (side, method), found in values.items():
        if not np.isfinite(found).all():
            raise ValueError(f"{side} of {method!r} holds a value that is not finite")
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=bins)
    looks = styles(method for _, method in values)
    figure, axes = new_figure(1, len(sides), width=width, height=2.2, sharey=True)
    parts = []
    for ax, side in zip(axes[0], sides, strict=True):
        for method in sides[side]:
            density = np.histogram(values[side, method], bins=edges, density=True)[0]
            style = looks[method]
            ax.stairs(density, edges, color=style.colour, linestyle=style.line, linewidth=1.2, label=style.label)
            parts.append(
                pd.DataFrame(
                    {"panel": side, "method": method, "low": edges[:-1], "high": edges[1:], "density": density}
                )
            )
        ax.set(title=side.capitalize(), xlabel=label)
        ax.label_outer(remove_inner_ticks=True)
    axes[0, 0].set_ylabel("Density")
    legend_above(figure, columns=5)
    return finish(figure, pd.concat(parts))


@use_style()
def tsne(
    points: Mapping[str, ArrayLike], classes: ArrayLike, class_names: Sequence[str], *, width: str = "double"
) -> Drawing:
    """A map of embeddings for each method, the same colour and marker for a class in all of them (PESF Fig. 9).

    Args:
        points: method -> [N, 2] places.
        classes: [N] the class of each sample, as a position in `class_names`.
        class_names: at most seven.
    Returns:
        The figure; its numbers are method, class, x, y. Distances between maps mean nothing, so the axes carry no
        numbers.
    Raises:
        ValueError: more than seven classes, places of another shape than [N, 2].
    """
    classes = np.asarray(classes)
    if len(class_names) > len(SPARE_COLOURS):
        raise ValueError(
            f"{len(class_names)} classes: more than the {len(SPARE_COLOURS)} colours that can be told apart"
        )
    columns = min(len(points), 4 if width == "double" else 2)
    rows = -(-len(points) // columns)
    figure, axes = new_figure(rows, columns, width=width, height=0.55 + rows * (WIDTHS[width] / columns + 0.1))
    looks, parts = styles(points), []
    for ax, (method, places) in zip(axes.flat, points.items(), strict=False):
        places = np.asarray(places, float)
        if places.shape != (len(classes), 2):
            raise ValueError(f"places of {method!r} have shape {places.shape}, not {(len(classes), 2)}")
        for i in range(len(class_names)):
            of_class = places[classes == i]
            ax.scatter(*of_class.T, s=9, color=SPARE_COLOURS[i], marker=SPARE_MARKERS[i], alpha=0.8, linewidth=0)
        ax.set(title=looks[method].label, xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        ax.spines[:].set(visible=True, color="#BBBBBB")
        parts.append(
            pd.DataFrame(
                {"method": method, "class": [class_names[i] for i in classes], "x": places[:, 0], "y": places[:, 1]}
            )
        )
    for ax in axes.flat[len(points) :]:
        ax.set_axis_off()
    keys = [
        Line2D([], [], color=SPARE_COLOURS[i], marker=SPARE_MARKERS[i], linestyle="", label=name)
        for i, name in enumerate(class_names)
    ]
    figure.legend(
        handles=keys,
        loc="outside upper center",
        ncols=7 if width == "double" else 4,
        handletextpad=0.2,
        columnspacing=1.0,
    )
    return finish(figure, pd.concat(parts))


@use_style()
def heatmap(
    matrix: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    row_label: str = "",
    column_label: str = "",
    low: float | None = None,
    high: float | None = None,
    digits: int = 2,
    width: str = "single",
) -> Drawing:
    """A table of numbers with colours behind them (CKA, agreement).

    Args:
        matrix: [rows, columns].
        rows, columns: names; those of methods are written as in every figure.
        label: what the numbers are, beside the colour bar; row_label, column_label: what the names are.
        low, high: ends of the colour scale; None takes the smallest and the largest number.
        digits: decimals in a cell.
    Returns:
        The figure; its numbers are row, column, value.
    Raises:
        ValueError: a matrix of another shape than its names.
    """
    matrix = np.asarray(matrix, float)
    if matrix.shape != (len(rows), len(columns)):
        raise ValueError(f"matrix of shape {matrix.shape}, but {len(rows)} row and {len(columns)} column names")
    figure, axes = new_figure(1, 1, width=width, height=0.9 + 0.26 * len(rows))
    ax = axes[0, 0]
    image = ax.pcolormesh(matrix, cmap="cividis", vmin=low, vmax=high, edgecolors="white", linewidth=1)
    ax.invert_yaxis()
    for (i, j), value in np.ndenumerate(matrix):
        dark = mpl.colormaps["cividis"](image.norm(value))[1] < 0.5
        ax.text(
            j + 0.5,
            i + 0.5,
            f"{value:.{digits}f}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if dark else "black",
        )
    names = [style.label for style in styles(columns).values()]
    crowded = len(names) * max(map(len, names)) > LETTERS * WIDTHS[width]
    turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    ax.set_xticks(np.arange(len(names)) + 0.5, names, **turned)
    ax.set_yticks(np.arange(len(rows)) + 0.5, [style.label for style in styles(rows).values()])
    ax.set(xlabel=column_label, ylabel=row_label)
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.colorbar(image, label=label, aspect=12).outline.set_visible(False)
    cells = pd.DataFrame(matrix, index=list(rows), columns=list(columns)).rename_axis("row").reset_index()
    return finish(figure, cells.melt("row", var_name="column", value_name="value"))
