"""One sample at a time: images, soft labels."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from kd_lib.figures.canvas import Drawing, finish, new_figure
from kd_lib.figures.style import BLUE, GREY, ORANGE, WIDTHS, styles, use_style


@use_style()
def image_grid(images: ArrayLike, titles: Sequence[str], *, columns: int = 8, width: str = "double") -> Drawing:
    """Images with their titles, row by row.

    Args:
        images: [N, channels, H, W] uint8, one channel (grey) or three.
        titles: N of them.
        columns: images in a row.
    Returns:
        The figure; its numbers are the pixels: image, title, channel, row, and a column for each horizontal position.
    Raises:
        ValueError: images of another shape or type, another number of titles.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(f"images of shape {images.shape} and type {images.dtype}: expected [N, 1 or 3, H, W] of uint8")
    n, channels, h, w = images.shape
    if len(titles) != n:
        raise ValueError(f"{n} images, but {len(titles)} titles")
    rows = -(-n // columns)
    figure, axes = new_figure(rows, columns, width=width, height=0.3 + rows * (WIDTHS[width] / columns * h / w + 0.17))
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        ax.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        ax.set_title(title, fontsize=7, pad=2)
    place = pd.MultiIndex.from_product([range(n), range(channels), range(h)], names=["image", "channel", "row"])
    pixels = pd.DataFrame(images.reshape(-1, w), index=place, columns=[f"x{i}" for i in range(w)]).reset_index()
    pixels.insert(1, "title", [titles[i] for i in pixels["image"]])
    return finish(figure, pixels)


@use_style()
def soft_labels(
    probabilities: Mapping[str, ArrayLike],
    class_names: Sequence[str],
    true: int,
    *,
    top: int = 10,
    related: Collection[int] = (),
    related_label: str = "related class",
    width: str = "double",
) -> Drawing:
    """What soft labels say about one sample: the classes that the first one finds most probable, one panel a label.

    Args:
        probabilities: name (a method, "τ = 4") -> [C] probabilities.
        class_names: C of them.
        true: the right class, drawn in its own colour.
        top: classes shown, the right one always among them; what is left of the probability is written below the panel.
        related: classes with a colour of their own, such as those that share a digit with the right one, called
            `related_label`.
    Returns:
        The figure; its numbers are name, class, kind (true, related, other, rest), probability.
    Raises:
        ValueError: probabilities that are not C numbers of sum 1.
    """
    arrays = {name: np.asarray(p, float) for name, p in probabilities.items()}
    for name, p in arrays.items():
        if p.shape != (len(class_names),) or not np.isclose(p.sum(), 1, atol=1e-4):
            raise ValueError(
                f"soft label {name!r}: shape {p.shape}, sum {p.sum():.4g}; expected ({len(class_names)},) and 1"
            )
    order = np.argsort(-next(iter(arrays.values())), kind="stable")
    shown = order[: min(top, len(order))]
    if true not in shown:
        shown[-1] = true
    kinds = ["true" if i == true else "related" if i in set(related) else "other" for i in shown]
    colours = {"true": BLUE, "related": ORANGE, "other": GREY}
    looks, parts = styles(arrays), []
    figure, axes = new_figure(1, len(arrays), width=width, height=0.9 + 0.16 * len(shown), sharey=True)
    for ax, (name, p) in zip(axes[0], arrays.items(), strict=True):
        rest, n_rest = 1 - p[shown].sum(), len(p) - len(shown)
        bars = ax.barh(range(len(shown)), p[shown], color=[colours[kind] for kind in kinds], height=0.75)
        ax.bar_label(bars, fmt="%.3f", fontsize=6, padding=2)
        ax.margins(x=0.15)
        ax.set(
            title=looks[name].label,
            xlabel=f"Probability\n({n_rest} more classes: {rest:.3f})" if n_rest else "Probability",
        )
        ax.grid(visible=False, axis="y")
        ax.label_outer(remove_inner_ticks=True)
        parts.append(
            pd.DataFrame(
                {"name": name, "class": [class_names[i] for i in shown], "kind": kinds, "probability": p[shown]}
            )
        )
        parts += (
            [
                pd.DataFrame(
                    {"name": [name], "class": [f"{n_rest} more classes"], "kind": ["rest"], "probability": [rest]}
                )
            ]
            if n_rest
            else []
        )
    axes[0, 0].set_yticks(range(len(shown)), [class_names[i] for i in shown])
    axes[0, 0].invert_yaxis()
    words = {"true": "right class", "related": related_label, "other": "wrong class"}
    keys = [
        Line2D([], [], color=colours[kind], marker="s", linestyle="", label=words[kind])
        for kind in words
        if kind in kinds
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), handletextpad=0.2)
    return finish(figure, pd.concat(parts))
