"""Figures as files: the numbers beside them, equal bytes from equal input, and words that stay on the page."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import toy_figures
from toy_figures import DIGITS, images, pairs, runs, soft_label, teachers

from kd_lib import figures
from kd_lib.figures import canvas

close_figures = toy_figures.close_figures  # for every test of this file


def drawings() -> dict[str, figures.Drawing]:
    """One small figure of each kind."""
    places = np.linspace(-1, 1, 14).reshape(7, 2)
    epochs = pd.DataFrame({"tau": t, "epoch": e, "kl": t / e, "seed": 0} for t in (1, 2, 4) for e in range(1, 21))
    spread = {"kd": np.linspace(0, 4, 50), "pesf_kd": np.linspace(1, 3, 50)}
    return {
        "lines": figures.lines(runs(), "tau", ["accuracy", "gap"], log_x=True),
        "shades": figures.lines(epochs, "epoch", "kl", hue="tau", width="double"),
        "capacity": figures.capacity(teachers()),
        "scatter": figures.scatter(teachers(), "gap", "accuracy"),
        "dots": figures.dots(pairs(), "accuracy", panel="pair", baseline="kd", width="double"),
        "differences": figures.differences(pairs(), "accuracy", baseline="kd", panel="pair"),
        "logits": figures.logit_distribution({"student": spread, "teacher": {"kd": spread["kd"]}}),
        "tsne": figures.tsne({"kd": places, "ft_kd": 2 * places}, np.arange(7), DIGITS[30:37]),
        "heatmap": figures.heatmap([[0.1, 0.9], [0.5, 0.6]], ["kd", "atkd"], ["resnet14", "resnet20"], label="CKA"),
        "images": figures.image_grid(images(), ["03", "37", "99"], columns=3),
        "soft": figures.soft_labels({"kd": soft_label()}, DIGITS, 37, related=[38], width="single"),
    }


def save_all(folder: str) -> None:
    for name, figure in drawings().items():
        figures.save(figure, name, scale="smoke", caption="made up, 3 seeds", folder=folder)


def test_save_writes_three_files_that_agree(tmp_path):
    figure = figures.dots(pairs(), "accuracy", panel="pair")
    path = figures.save(figure, "by_method", scale="demo", caption="digits100, 10 epochs, 3 seeds", folder=tmp_path)
    assert path == tmp_path / "demo" / "by_method.svg"
    assert sorted(file.name for file in path.parent.iterdir()) == ["by_method.csv", "by_method.png", "by_method.svg"]
    pd.testing.assert_frame_equal(pd.read_csv(path.with_suffix(".csv")), figure.numbers, check_exact=True)
    assert figure._supxlabel.get_text().endswith("\ndemo scale: digits100, 10 epochs, 3 seeds")
    assert plt.fignum_exists(figure.number)
    svg = path.read_text()
    assert "<text" not in svg and "dc:date" not in svg and "Matplotlib v" not in svg
    png = path.with_suffix(".png").read_bytes()
    assert png.startswith(b"\x89PNG") and b"tEXt" not in png


def test_saving_twice_changes_nothing(tmp_path):
    figure = figures.lines(runs(), "tau", ["accuracy", "gap"], log_x=True)
    path = figures.save(figure, "twice", scale="demo", folder=tmp_path)
    first = path.read_bytes(), path.with_suffix(".png").read_bytes()
    figures.save(figure, "twice", scale="demo", folder=tmp_path)
    assert (path.read_bytes(), path.with_suffix(".png").read_bytes()) == first


def test_save_stands_under_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "project_root", lambda: tmp_path)
    path = figures.save(figures.dots(pairs(), "accuracy", panel="pair"), "plain", scale="smoke")
    assert path == Path("figures/smoke/plain.svg")  # no machine's folder in a notebook's output
    assert (tmp_path / path).is_file()


def test_a_foreign_figure_needs_its_numbers(tmp_path):
    with figures.use_style():
        figure, ax = plt.subplots()
        ax.plot([0, 1], [2, 3])
    with pytest.raises(ValueError, match="'mine' brings no numbers"):
        figures.save(figure, "mine", scale="demo", folder=tmp_path)
    path = figures.save(figure, "mine", pd.DataFrame({"x": [0, 1], "y": [2, 3]}), scale="demo", folder=tmp_path)
    assert path.with_suffix(".csv").read_text() == "x,y\n0,2\n1,3\n"


@pytest.mark.parametrize("names", [{"name": "../up", "scale": "demo"}, {"name": "fig", "scale": "demo/x"}])
def test_names_are_plain_file_names(names, tmp_path):
    with pytest.raises(ValueError, match="is not made of small letters"):
        figures.save(figures.dots(pairs(), "accuracy", panel="pair"), **names, folder=tmp_path)


def test_widths_are_columns():
    assert figures.dots(pairs(), "accuracy", panel="pair", width="double").get_figwidth() == 6.9
    with pytest.raises(ValueError, match="unknown figure width: 'wide'"):
        figures.dots(pairs(), "accuracy", panel="pair", width="wide")


def test_bytes_are_equal_in_a_fresh_process(tmp_path):
    save_all(tmp_path / "here")
    code = "import sys, test_figures_files; test_figures_files.save_all(sys.argv[1])"
    places = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": places}
    subprocess.run([sys.executable, "-c", code, tmp_path / "there"], check=True, env=environment)
    files = sorted((tmp_path / "here" / "smoke").iterdir())
    assert len(files) == 3 * 11
    for file in files:
        assert file.read_bytes() == (tmp_path / "there" / "smoke" / file.name).read_bytes(), file.name


def visible_words(figure: figures.Drawing) -> list[matplotlib.text.Text]:
    """All text that is drawn; tick labels beyond the ends of an axis, or of axes turned off, are not."""
    hidden = []
    for axis, side in ((axis, side) for ax in figure.axes for axis, side in ((ax.xaxis, 0), (ax.yaxis, 1))):
        low, high = axis.axes.bbox.get_points()[:, side]
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (label for tick in ticks for label in (tick.label1, tick.label2)):
            place = label.get_transform().transform(label.get_position())[side]
            hidden += [] if axis.axes.axison and low - 1 <= place <= high + 1 else [label]
    words = figure.findobj(lambda artist: isinstance(artist, matplotlib.text.Text) and artist.get_visible())
    return [text for text in words if text.get_text().strip() and text not in hidden]


def test_words_stay_on_the_page_and_apart():
    for name, figure in drawings().items():
        canvas.set_foot(figure, figure.note, "smoke scale: made up")
        figure.draw_without_rendering()
        page = figure.bbox.padded(1)
        boxes = [
            (text.get_text(), matplotlib.text.Text.get_window_extent(text), text.get_rotation())  # without its arrow
            for text in visible_words(figure)
        ]
        for text, box, _ in boxes:
            assert page.x0 <= box.x0 <= box.x1 <= page.x1, f"{name}: {text!r} leaves the page"
            assert page.y0 <= box.y0 <= box.y1 <= page.y1, f"{name}: {text!r} leaves the page"
        for (one, a, turn_a), (other, b, turn_b) in itertools.combinations(boxes, 2):
            if turn_a == turn_b == 0:
                shared = min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
                assert not shared, f"{name}: {one!r} covers {other!r}"
