"""Parameters of notebooks: how they are declared, and how scales and the command line set them."""

import pytest
from toy_notebooks import DEMO

from kd_lib import parameters


def test_a_parameters_cell_gives_defaults_and_help():
    code = "# sizes\nscale = 'demo'\ntau = -1.5  # temperature\nseeds = [\n    0,\n    1,\n]  # of students\n"
    found = parameters.declared(code, "the cell")
    assert {name: tuple(parameter) for name, parameter in found.items()} == {
        "scale": ("demo", ""),
        "tau": (-1.5, "temperature"),
        "seeds": ([0, 1], "of students"),
    }


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("epochs = 2 * 3", "line 2: expects name = literal"),
        ("a = b = 1", "line 2: expects name = literal"),
        ("a: int = 1", "line 2: expects name = literal"),
        ("a = {'b': 1}", "line 2: expects name = literal"),
        ("import os", "line 2: expects name = literal"),
        ("a = 1\na = 2", "line 3: 'a' is there twice"),
        ("a = ", "line 2: invalid syntax"),
    ],
)
def test_a_parameters_cell_that_is_not_plain_is_refused(code, message):
    with pytest.raises(ValueError, match=message):
        parameters.declared(f"{DEMO}\n{code}", "the cell")
    with pytest.raises(ValueError, match="the cell lacks `scale"):
        parameters.declared("a = 1", "the cell")


@pytest.mark.parametrize(
    ("value", "default", "fitted"),
    [
        (2, 1, 2),
        (2, 1.0, 2.0),
        ("kd", "atkd", "kd"),
        (False, True, False),
        ([2, 3], [0.5, 1], [2.0, 3.0]),
        ([1], (8, 16), (1,)),
        ((1, 2), [0], [1, 2]),
        ([["a"], []], [["b", "c"]], [["a"], []]),
        (["a", 1], [], ["a", 1]),
        ("anything", None, "anything"),
    ],
)
def test_values_that_fit_are_converted(value, default, fitted):
    result = parameters.fit(value, default)
    assert result == fitted and type(result) is type(fitted)
    if isinstance(fitted, list | tuple):
        assert [type(element) for element in result] == [type(element) for element in fitted]


@pytest.mark.parametrize(
    ("value", "default", "message"),
    [
        ("abc", 1, "expects int, got 'abc'"),
        (True, 1, "expects int, got True"),
        (1.0, 1, r"expects int, got 1\.0"),
        (1, True, r"expects bool \(True or False\), got 1"),
        (False, 1.0, "expects float, got False"),
        ("1e-3", 0.1, "expects float, got '1e-3'"),
        (5, "kd", "expects str, got 5"),
        (None, 1, "expects int, got None"),
        (3, [0, 1], "expects list of int, got 3"),
        ([0, "a"], [0, 1], r"expects list of int, got \[0, 'a'\]"),
        ([0.5], (8, 16), r"expects tuple of int, got \[0\.5\]"),
    ],
)
def test_values_of_the_wrong_type_are_refused(value, default, message):
    with pytest.raises(ValueError, match=message):
        parameters.fit(value, default)


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("3", 1, 3),
        ("1e-3", 0.1, 0.001),
        ("kd", "atkd", "kd"),
        ("'kd'", "atkd", "kd"),
        ("0,1", [5], [0, 1]),
        ("0,", [5], [0]),
        ("0", [5], [0]),
        ("[0, 1]", [5], [0, 1]),
        ("(0, 1)", [5], (0, 1)),
        ("kd, atkd", ["ft"], ["kd", "atkd"]),
        ("None", None, None),
        ("true", True, "true"),
    ],
)
def test_text_of_the_command_line_becomes_a_value(text, default, value):
    assert parameters.from_text(text, default) == value


def test_scales_set_what_notebooks_declare():
    first = parameters.declared(f"{DEMO}\nepochs = 3\nlr = 0.1\nsizes = (8,)", "1")
    second = parameters.declared(f"{DEMO}\nepochs = 5", "2")
    scales = {"smoke": {"all": {"epochs": 1, "lr": 1}, "01_first": {"epochs": 2, "sizes": [4, 8]}}, "demo": None}
    assert parameters.from_scales({"01_first": first, "02_second": second}, scales, "smoke") == {
        "01_first": {"scale": "smoke", "epochs": 2, "lr": 1.0, "sizes": (4, 8)},
        "02_second": {"scale": "smoke", "epochs": 1},
    }
    assert parameters.from_scales({"02_second": second}, scales, "demo") == {
        "02_second": {"scale": "demo", "epochs": 5}
    }
