"""One look for every figure: sizes, fonts, and one fixed colour, marker and label a method.

Colours are Okabe and Ito's (2008), told apart with any common colour blindness. Their yellow is left out, too pale for
lines on white; a dark grey and a brown are added.
"""

from collections.abc import Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from numbers import Real
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.colors import to_hex

from kd_lib.errors import unknown

BLACK, GREY, ORANGE, SKY, GREEN = "#000000", "#555555", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, BROWN = "#0072B2", "#D55E00", "#CC79A7", "#7A3600"
SPARE_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY)
SPARE_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d")
WIDTHS = {"single": 3.3, "double": 6.9}  # inches: a column, a page

RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that a figure does not depend on the machine's fonts
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "figure.dpi": 150,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",  # text as outlines: the same picture without DejaVu Sans installed
    "svg.hashsalt": "kd_lib",  # ids inside an SVG depend on its content only
}


class MethodStyle(NamedTuple):
    """How a method looks in every figure."""

    label: str
    colour: str
    marker: str
    line: str = "-"


METHOD_STYLES: dict[str, MethodStyle] = {
    "teacher": MethodStyle("Teacher", BLACK, "*", "--"),
    "student": MethodStyle("Student", BLUE, "h"),
    "alone": MethodStyle("Alone", GREY, "X", ":"),
    "label_smoothing": MethodStyle("Label smoothing", GREY, "v", ":"),
    "kd": MethodStyle("KD", BLUE, "o"),
    "kd_adjusted": MethodStyle("KD, adjusted", GREEN, "o", "--"),
    "atkd": MethodStyle("ATKD", VERMILLION, "s"),
    "atkd_sigma": MethodStyle("ATKD, scale σₛσₜ", ORANGE, "s", "--"),
    "atkd_16": MethodStyle("ATKD, scale 16", BROWN, "s", "-."),
    "ft_kd": MethodStyle("FT-KD", SKY, "^"),
    "ft_kd_plain": MethodStyle("FT-KD, unadjusted", GREEN, "^", "--"),
    "pesf_kd": MethodStyle("PESF-KD v2", PURPLE, "D"),
    "pesf_kd_plain": MethodStyle("PESF-KD v2, unadjusted", GREEN, "D", "--"),
    "pesf_kd_v1": MethodStyle("PESF-KD v1", ORANGE, "D", "-."),
    "pesf_kd_lora": MethodStyle("PESF-KD, LoRA", BROWN, "^", "--"),
    "pesf_kd_parallel": MethodStyle("PESF-KD, parallel", BROWN, "v", "-."),
    "pesf_kd_layers": MethodStyle("PESF-KD, in layers", BROWN, "p", ":"),
    "skd": MethodStyle("SKD", GREEN, "<"),
    "normkd": MethodStyle("NormKD", PURPLE, ">"),
    "logit_std": MethodStyle("Logit std.", ORANGE, "p"),
    "dtkd": MethodStyle("DTKD", SKY, "P"),
    "ttm": MethodStyle("TTM", GREEN, "v"),
    "wttm": MethodStyle("WTTM", GREEN, "d"),
    "ctkd": MethodStyle("CTKD", GREY, "s"),
    "dkd": MethodStyle("DKD", ORANGE, "o"),
    "dist": MethodStyle("DIST", PURPLE, "o"),
    "fitnet": MethodStyle("FitNet", BLUE, "s"),
    "at": MethodStyle("AT", BLUE, "^"),
    "sp": MethodStyle("SP", BLUE, "v"),
    "cc": MethodStyle("CC", BLUE, "D"),
    "vid": MethodStyle("VID", VERMILLION, "^"),
    "rkd": MethodStyle("RKD", VERMILLION, "v"),
    "pkt": MethodStyle("PKT", VERMILLION, "D"),
    "nst": MethodStyle("NST", VERMILLION, "P"),
    "ab": MethodStyle("AB", GREEN, "s"),
    "ft": MethodStyle("FT", GREEN, "P"),
    "fsp": MethodStyle("FSP", GREEN, "p"),
    "crd": MethodStyle("CRD", ORANGE, "^"),
    "sskd": MethodStyle("SSKD", ORANGE, "v"),
    "ofd": MethodStyle("OFD", ORANGE, "P"),
    "dml": MethodStyle("DML", GREEN, "X"),
    "kdcl_naive": MethodStyle("KDCL, naive", ORANGE, "X"),
    "kdcl_linear": MethodStyle("KDCL, linear", BROWN, "X", "--"),
    "kdcl_minlogit": MethodStyle("KDCL, minlogit", BROWN, "P", "-."),
    "kdcl_general": MethodStyle("KDCL, general", BROWN, "d", ":"),
    "sftn": MethodStyle("SFTN", ORANGE, "<"),
    "sftn_finetuned": MethodStyle("SFTN, fine-tuned", BROWN, "<", "--"),
    "takd": MethodStyle("TAKD", SKY, "v"),
    "rco": MethodStyle("RCO", SKY, "D"),
    "rco_eei": MethodStyle("RCO, EEI", BROWN, "D", "--"),
    "eskd": MethodStyle("ESKD", SKY, "o"),
    "kd_longer": MethodStyle("KD, as long as RCO", BROWN, "o", "--"),
    "patient": MethodStyle("Patient teacher", SKY, "X"),
    "pkd": MethodStyle("PKD", PURPLE, "^"),
    "tinybert": MethodStyle("TinyBERT", PURPLE, "v"),
}

COLUMN_LABELS = {
    "accuracy": "Test accuracy (%)",
    "train_accuracy": "Training accuracy (%)",
    "teacher_accuracy": "Teacher's accuracy (%)",
    "gap": "Sharpness gap (nats)",
    "gap_tempered": "Tempered gap (nats)",
    "sharpness": "Sharpness (nats)",
    "teacher_sharpness": "Teacher's sharpness (nats)",
    "entropy": "Entropy (nats)",
    "kl": "KL teacher ‖ student (nats)",
    "kl_4": "KL at τ = 4 (nats)",
    "cka_embedding": "CKA of embeddings",
    "cka_logits": "CKA of logits",
    "truth": "KL truth ‖ student (nats)",
    "teacher_truth": "KL truth ‖ teacher (nats)",
    "agreement": "Agreement with teacher",
    "loyalty": "Probability loyalty",
    "logit_std": "Standard deviation of logits",
    "tau": "Temperature τ",
    "kd_weight": "Weight of the KD term",
    "rank": "Adapter rank",
    "epoch": "Epoch",
    "teacher_parameters": "Teacher's parameters",
    "parameters": "Parameters",
    "seconds": "Time (s)",
    "megabytes": "Size (MB)",
}


def use_style() -> AbstractContextManager:
    """The house style, for a `with` block or as a decorator; every function of this package draws in it already."""
    return mpl.rc_context(RC)


def styles(names: Iterable[Hashable]) -> dict[Hashable, MethodStyle]:
    """Label, colour, marker and line of each name, in the order of first appearance.

    A method of `METHOD_STYLES` looks the same everywhere. Numbers (temperatures, epochs) take shades from dark to light
    in order of size. Any other name takes the next spare colour, those that no method beside it uses first: the same
    names in the same order always look the same.

    Raises:
        ValueError: one of the names is None or NaN.
    """
    names = list(dict.fromkeys(names))
    if any(name is None or name != name for name in names):  # NaN is the one number that differs from itself
        raise ValueError(f"a name is missing (None or NaN) among {[str(name) for name in names]}")
    if len(names) > 1 and all(isinstance(name, Real) for name in names):
        shade = mpl.colormaps["viridis"]
        place = {name: i / (len(names) - 1) for i, name in enumerate(sorted(names))}
        return {
            name: MethodStyle(f"{name:g}", to_hex(shade(0.85 * place[name])), SPARE_MARKERS[i % len(SPARE_MARKERS)])
            for i, name in enumerate(names)
        }
    known = {name: METHOD_STYLES[name] for name in names if name in METHOD_STYLES}
    taken = {style.colour for style in known.values()}
    colours = sorted(SPARE_COLOURS, key=lambda colour: colour in taken)  # stable: keeps the order within free and taken
    others = [name for name in names if name not in known]
    for i, name in enumerate(others):
        lap, place_in_lap = divmod(i, len(colours))
        marker = SPARE_MARKERS[(place_in_lap + 5 * lap + 5) % len(SPARE_MARKERS)]
        known[name] = MethodStyle(str(name), colours[place_in_lap], marker, ("-", "--", "-.", ":")[lap % 4])
    return {name: known[name] for name in names}


def axis_label(column: str, labels: Mapping[str, str] | None = None) -> str:
    """What stands beside an axis: the caller's words, the usual ones, or the column's name."""
    return {**COLUMN_LABELS, **(labels or {})}.get(column, column.replace("_", " "))


def figure_width(width: str) -> float:
    """Inches of a `single` column or a `double` one; any other name is an error."""
    if width not in WIDTHS:
        raise unknown("figure width", width, WIDTHS)
    return WIDTHS[width]
