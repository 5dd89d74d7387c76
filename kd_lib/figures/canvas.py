"""The figure that knows its numbers, and how the two are written side by side."""

import os
import re
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kd_lib.figures.style import figure_width, use_style
from kd_lib.paths import project_root

NOTE_SIZE = 6.0
METADATA = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}  # equal figures give equal bytes


class Drawing(Figure):
    """A matplotlib figure with the numbers that stand in it.

    Attributes:
        numbers: the plotted numbers, which `save` writes as CSV.
        note: what the error bars are; printed at the foot, above the scale.
    """

    numbers: pd.DataFrame | None = None
    note: str = ""


def set_foot(figure: Figure, *lines: str) -> None:
    """Prints small lines at the lower left corner, in place of earlier ones, and lets the layout make room for them."""
    characters = int(figure.get_figwidth() * 72 / (0.52 * NOTE_SIZE))  # 0.52: mean width of a letter over its height
    wrapped = [part for line in lines for part in textwrap.wrap(line, characters)]
    text = "\n".join(wrapped)
    if text != figure.get_supxlabel():
        figure.supxlabel(text, x=0.01, ha="left", fontsize=NOTE_SIZE, color="#444444")
        figure.set_layout_engine("constrained")


def new_figure(
    rows: int, columns: int, *, width: str, height: float, sharex: bool = False, sharey: bool = False
) -> tuple[Drawing, np.ndarray]:
    """An empty drawing, a single or double column wide, `height` inches high, and its [rows, columns] axes."""
    size = (figure_width(width), height)
    return plt.subplots(rows, columns, figsize=size, sharex=sharex, sharey=sharey, squeeze=False, FigureClass=Drawing)


def finish(figure: Drawing, numbers: pd.DataFrame, note: str = "") -> Drawing:
    """Ties a figure to its numbers and prints what its error bars are."""
    figure.numbers, figure.note = numbers.reset_index(drop=True), note
    if note:
        set_foot(figure, note)
    return figure


def legend_above(figure: Figure, columns: int) -> None:
    """One legend over all panels, outside of the data, with each name once."""
    found = [ax.get_legend_handles_labels() for ax in figure.axes]
    by_name = {name: handle for handles, names in found for handle, name in zip(handles, names, strict=True)}
    place = {"loc": "outside upper center", "ncols": min(columns, len(by_name)), "columnspacing": 1.2}
    figure.legend(list(by_name.values()), list(by_name), **place)


@use_style()
def save(
    figure: Figure,
    name: str,
    table: pd.DataFrame | None = None,
    *,
    scale: str,
    caption: str | None = None,
    folder: Path | None = None,
) -> Path:
    """Writes NAME.svg, NAME.png and NAME.csv under `figures/<scale>/`; equal figures give equal bytes.

    The figure stays open, so that a notebook shows it, with the scale at its foot.

    Args:
        figure: a figure of this package, or any other together with its `table`.
        name: of the files, in small letters, digits, `_` and `-`.
        table: exactly the plotted numbers; None takes those that the figure brings.
        scale: "smoke", "demo", "short", "paper".
        caption: what was run ("digits100, 10 epochs, 3 seeds"), printed as "demo scale: digits100, 10 epochs, 3 seeds".
        folder: instead of `figures/` in the checkout.
    Returns:
        Where the SVG lies, relative to the checkout where it is inside.
    Raises:
        ValueError: a name that is no plain file name; a figure without numbers.
    """
    for what, word in (("name", name), ("scale", scale)):
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", word):
            raise ValueError(f"{what} of a figure: {word!r} is not made of small letters, digits, '_' and '-'")
    numbers = table if table is not None else getattr(figure, "numbers", None)
    if numbers is None:
        raise ValueError(f"figure {name!r} brings no numbers: pass the plotted ones as `table`")
    foot = f"{scale} scale: {caption}" if caption else f"{scale} scale"
    set_foot(figure, getattr(figure, "note", ""), foot)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # each further draw would move panels by rounding errors, and so change bytes
    target = Path(folder or project_root() / "figures", scale)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=f".{name}-") as scratch:
        for kind, metadata in METADATA.items():
            figure.savefig(Path(scratch, f"{name}.{kind}"), metadata=metadata)
        numbers.to_csv(Path(scratch, f"{name}.csv"), index=False, lineterminator="\n")
        for kind in ("csv", "png", "svg"):
            os.replace(Path(scratch, f"{name}.{kind}"), target / f"{name}.{kind}")
    path = target / f"{name}.svg"
    return path.relative_to(project_root()) if path.is_relative_to(project_root()) else path
