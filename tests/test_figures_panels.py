"""Panels and samples: distributions, maps of points, tables of colours, images and soft labels."""

import numpy as np
import pytest
import toy_figures
from matplotlib.colors import to_hex
from toy_figures import DIGITS, images, soft_label

from kd_lib import figures

close_figures = toy_figures.close_figures  # for every test of this file


def test_logit_distribution_integrates_to_one():
    values = {"kd": np.array([0.0, 1.0, 1.0, 4.0]), "atkd": np.array([2.0, 3.0])}
    figure = figures.logit_distribution({"student": values, "teacher": {"kd": np.array([1.0, 2.0])}}, bins=4)
    numbers = figure.numbers
    assert numbers["low"].iloc[:4].tolist() == [0, 1, 2, 3]  # the range of all panels
    assert numbers.query("panel == 'student' and method == 'kd'")["density"].tolist() == [0.25, 0.5, 0, 0.25]
    area = (
        (numbers["density"] * (numbers["high"] - numbers["low"])).groupby([numbers["panel"], numbers["method"]]).sum()
    )
    assert area.tolist() == pytest.approx([1, 1, 1])
    assert [len(ax.patches) for ax in figure.axes] == [2, 1]
    assert figure.axes[0].patches[0].get_data().values.tolist() == [0.25, 0.5, 0, 0.25]
    with pytest.raises(ValueError, match="student of 'kd' holds a value that is not finite"):
        figures.logit_distribution({"student": {"kd": [1.0, np.nan]}})


def test_logit_distribution_names_every_method_once():
    figure = figures.logit_distribution({"student": {"kd": [0.0, 1.0]}, "teacher": {"kd": [0.0, 1.0], "ft_kd": [0.5]}})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["KD", "FT-KD"]


def test_tsne_gives_a_class_one_colour():
    places = np.arange(8.0).reshape(4, 2)
    figure = figures.tsne({"kd": places, "ft_kd": places + 1}, [1, 0, 1, 2], ["cat", "dog", "owl"])
    first, second = (
        {to_hex(c.get_facecolor()[0]): c.get_offsets().tolist() for c in ax.collections} for ax in figure.axes[:2]
    )
    assert list(first) == list(second)
    assert list(first.values()) == [[[2, 3]], [[0, 1], [4, 5]], [[6, 7]]]
    assert figure.numbers["class"].tolist() == ["dog", "cat", "dog", "owl"] * 2
    assert figure.numbers["x"].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    with pytest.raises(ValueError, match="8 classes: more than the 7 colours"):
        figures.tsne({"kd": places}, [0] * 4, list("abcdefgh"))
    with pytest.raises(ValueError, match=r"shape \(4, 2\), not \(3, 2\)"):
        figures.tsne({"kd": places}, [0] * 3, ["a"])


def test_heatmap_writes_its_numbers():
    figure = figures.heatmap([[0.123, 0.9], [0.5, 0.6]], ["kd", "atkd"], ["x", "y"], label="CKA")
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.12", "0.90", "0.50", "0.60"]
    assert [text.get_color() for text in figure.axes[0].texts[:2]] == ["white", "black"]  # on dark blue, on yellow
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["KD", "ATKD"]
    assert figure.numbers.query("row == 'kd' and column == 'y'")["value"].tolist() == [0.9]
    assert figure.axes[0].collections[0].get_array().ravel().tolist() == [0.123, 0.9, 0.5, 0.6]
    with pytest.raises(ValueError, match="3 row and 2 column names"):
        figures.heatmap([[0.1, 0.9]], ["a", "b", "c"], ["x", "y"], label="CKA")


def test_image_grid_shows_the_pixels():
    figure = figures.image_grid(images(), ["03", "37", "99"], columns=2)
    assert np.array_equal(figure.axes[1].images[0].get_array(), images()[1, 0])
    assert [ax.get_title() for ax in figure.axes] == ["03", "37", "99", ""]
    second = figure.numbers[figure.numbers["title"] == "37"]
    assert np.array_equal(second[["x0", "x1", "x2", "x3", "x4"]], images()[1, 0])
    colour = figures.image_grid(images().reshape(1, 3, 4, 5), ["all"])
    assert colour.axes[0].images[0].get_array()[1, 2].tolist() == [7, 27, 47]
    with pytest.raises(ValueError, match="float64: expected"):
        figures.image_grid(images() / 255, ["03", "37", "99"])
    with pytest.raises(ValueError, match="3 images, but 1 titles"):
        figures.image_grid(images(), ["03"])


def test_soft_labels_show_the_right_class_and_the_rest():
    figure = figures.soft_labels({"kd": soft_label(), "teacher": soft_label(36)}, DIGITS, 36, top=2, related=[38])
    kd, teacher = figure.axes
    assert [text.get_text() for text in kd.get_yticklabels()] == ["37", "36"]  # most probable for kd, and the right one
    assert [bar.get_width() for bar in teacher.patches] == pytest.approx([0.2 / 98, 0.5])
    assert figure.numbers["kind"].tolist() == ["other", "true", "rest"] * 2
    assert figure.numbers.groupby("name")["probability"].sum().tolist() == pytest.approx([1, 1])
    assert teacher.get_xlabel() == "Probability\n(98 more classes: 0.498)"
    with pytest.raises(ValueError, match="sum 2"):
        figures.soft_labels({"kd": 2 * soft_label()}, DIGITS, 36)
