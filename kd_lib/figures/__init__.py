"""Draws tables and arrays, and writes each figure beside exactly its numbers. Never trains, never loads a run.

A plot function takes a table with one row a run and returns a figure with its `numbers`; `save` writes SVG, PNG and
CSV:

    figure = figures.lines(table, "tau", ["accuracy", "gap"], log_x=True)
    figures.save(figure, "temperature", scale="demo", caption="digits100, 10 epochs, 3 seeds")
"""

from kd_lib.figures.canvas import Drawing, save
from kd_lib.figures.curves import capacity, lines, scatter
from kd_lib.figures.forest import forest
from kd_lib.figures.panels import heatmap, logit_distribution, tsne
from kd_lib.figures.rows import differences, dots
from kd_lib.figures.samples import image_grid, soft_labels
from kd_lib.figures.spread import mean_and_spread, paired_difference, paired_values
from kd_lib.figures.style import METHOD_STYLES, MethodStyle, axis_label, styles, use_style

__all__ = [
    "METHOD_STYLES",
    "Drawing",
    "MethodStyle",
    "axis_label",
    "capacity",
    "differences",
    "dots",
    "forest",
    "heatmap",
    "image_grid",
    "lines",
    "logit_distribution",
    "mean_and_spread",
    "paired_difference",
    "paired_values",
    "save",
    "scatter",
    "soft_labels",
    "styles",
    "tsne",
    "use_style",
]
