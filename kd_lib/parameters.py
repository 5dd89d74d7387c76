"""Parameters of notebooks: declared in a cell, set by scale and command line, checked before anything heavy is loaded.

The cell tagged `parameters` holds plain literals, the values of scale demo; their types are what is accepted later.
"""

import ast
import io
import tokenize
from collections.abc import Sequence
from typing import NamedTuple

from kd_lib.errors import unknown

SCALES = ("smoke", "demo", "short", "paper")
ON_REQUEST = "on_request"
SCALAR_TYPES = (bool, int, float, str)


class Parameter(NamedTuple):
    """One line of a parameters cell.

    Attributes:
        default: the literal on the right, which also sets the type.
        help: the comment at the end of the line.
    """

    default: object
    help: str


def declared(code: str, where: str) -> dict[str, Parameter]:
    """Reads a parameters cell without executing it.

    Args:
        code: the cell's source; assignments of literals to names, and comments.
        where: what errors call the cell ("the parameters cell of 04_adaptive_temperature").
    Returns:
        The parameters by name, in the cell's order.
    Raises:
        ValueError: the cell holds something else, declares a name twice or does not declare `scale`.
    """
    try:
        lines = ast.parse(code).body
    except SyntaxError as error:
        raise ValueError(f"{where}, line {error.lineno}: {error.msg}") from None
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(code).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, Parameter] = {}
    for line in lines:
        try:
            name, default = _assignment(line)
        except ValueError:
            wanted = "name = literal (int, float, bool, str, list, tuple or None)"
            raise ValueError(f"{where}, line {line.lineno}: expects {wanted}, got `{ast.unparse(line)}`") from None
        if name in found:
            raise ValueError(f"{where}, line {line.lineno}: {name!r} is there twice")
        found[name] = Parameter(default, comments.get(line.end_lineno, ""))
    if "scale" not in found:
        raise ValueError(f'{where} lacks `scale = "demo"`')
    return found


def _assignment(line: ast.stmt) -> tuple[str, object]:
    if not (isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name)):
        raise ValueError("not an assignment to a name")
    default = ast.literal_eval(line.value)
    if default is not None and type(default) not in (*SCALAR_TYPES, list, tuple):
        raise ValueError("not an allowed type")
    return line.targets[0].id, default


def fit(value: object, default: object) -> object:
    """The value in the type of the default.

    Args:
        value: what scale or command line gives; an int fits a float, a list fits a tuple and the other way round.
        default: what the notebook declares; None takes any literal, an empty list any elements.
    Returns:
        The value, converted where that loses nothing.
    Raises:
        ValueError: it does not fit; the message says what is expected and what came.
    """
    try:
        return _fitted(value, default)
    except TypeError:
        raise ValueError(f"expects {_kind(default)}, got {value!r}") from None


def _fitted(value: object, default: object) -> object:
    if default is None:
        return value
    if isinstance(default, list | tuple):
        if not isinstance(value, list | tuple):
            raise TypeError
        return type(default)(_fitted(element, _typical(default)) for element in value)
    if type(default) is float and type(value) is int:
        return float(value)
    if type(value) is not type(default):  # `is`, because True is also an int
        raise TypeError
    return value


def _typical(elements: list | tuple) -> object:
    """The element that sets the type of all: a float among ints, None (anything) where the types are mixed."""
    types = {type(element) for element in elements}
    if types == {int, float}:
        return 0.0
    return elements[0] if len(types) == 1 else None


def _kind(default: object) -> str:
    if default is None:
        return "a literal"
    if isinstance(default, list | tuple):
        return f"{type(default).__name__} of {_kind(_typical(default))}"
    return "bool (True or False)" if isinstance(default, bool) else type(default).__name__


def from_text(text: str, default: object) -> object:
    """The value of `-p name=TEXT`, before its type is checked.

    Args:
        text: a Python literal; anything else is a string. Lists need no brackets: `0,1`.
        default: what the notebook declares, which tells whether a list is meant.
    """
    if isinstance(default, list | tuple) and text[:1] not in ("[", "("):
        return [_literal(part.strip()) for part in text.removesuffix(",").split(",")]
    return _literal(text.strip())


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def from_scales(parameters: dict[str, dict[str, Parameter]], scales: dict, scale: str) -> dict[str, dict[str, object]]:
    """The values that one scale gives to every notebook.

    Args:
        parameters: what each notebook declares.
        scales: the content of `scales.yaml`: a block a scale; in it a block a notebook, and `all` for every notebook
            that has the name.
        scale: one of `SCALES`.
    Returns:
        For each notebook all its parameters: the scale's value where it has one, else the default.
    Raises:
        ValueError: a scale, notebook or parameter that does not exist, or a value of the wrong type.
    """
    for name in scales:
        if name not in SCALES:
            raise unknown("scale in scales.yaml", name, SCALES)
    if scale not in scales:
        raise ValueError(f"scales.yaml has no block for scale {scale!r}")
    blocks = {name: block or {} for name, block in (scales[scale] or {}).items() if name != ON_REQUEST}
    where = f"in scales.yaml at scale {scale}"
    for name in blocks:
        if name not in (*parameters, "all"):
            raise unknown(f"notebook {where}", name, (*parameters, "all"))
    shared = blocks.get("all", {})
    _check_names(shared, {name for own in parameters.values() for name in own}, f"parameter {where}, all")
    values = {}
    for notebook, own in parameters.items():
        mine = blocks.get(notebook, {})
        _check_names(mine, own, f"parameter {where}, {notebook}")
        given = {name: value for name, value in shared.items() if name in own} | mine
        fitted = {name: _fit_named(value, own[name], name, f"{where}, {notebook}") for name, value in given.items()}
        defaults = {name: parameter.default for name, parameter in own.items()}
        values[notebook] = defaults | fitted | {"scale": scale}
    return values


def on_request(scales: dict, scale: str, names: Sequence[str]) -> list[str]:
    """The notebooks that a scale leaves out unless they are asked for: the list `on_request` of its block.

    Raises:
        ValueError: a notebook that does not exist.
    """
    listed = (scales.get(scale) or {}).get(ON_REQUEST, [])
    for name in listed:
        if name not in names:
            raise unknown(f"notebook in scales.yaml at scale {scale}, {ON_REQUEST}", name, names)
    return listed


def _check_names(given: dict, allowed: dict | set, what: str) -> None:
    for name in given:
        if name == "scale":
            raise ValueError(f"{what}: scale is set by --scale alone")
        if name not in allowed:
            raise unknown(what, name, sorted(set(allowed) - {"scale"}))


def _fit_named(value: object, parameter: Parameter, name: str, where: str) -> object:
    try:
        return fit(value, parameter.default)
    except ValueError as error:
        raise ValueError(f"parameter {name!r} {where}: {error}") from None


def with_overrides(
    values: dict[str, dict[str, object]], parameters: dict[str, dict[str, Parameter]], overrides: list[str]
) -> dict[str, dict[str, object]]:
    """The values after `-p name=value`, which goes to every notebook that has the name.

    Args:
        values: of each selected notebook.
        parameters: what each notebook declares.
        overrides: the arguments, "name=value"; the last one of a name holds.
    Raises:
        ValueError: not of that form, a name that no selected notebook has, or a value of the wrong type.
    """
    changed = {notebook: dict(own) for notebook, own in values.items()}
    for override in overrides:
        name, equals, text = override.partition("=")
        name = name.strip()
        if not equals:
            raise ValueError(f"-p expects name=value, got {override!r}")
        _check_names({name: text}, {known for own in values.values() for known in own}, "parameter")
        for notebook, own in changed.items():
            if name in own:
                parameter = parameters[notebook][name]
                own[name] = _fit_named(from_text(text, parameter.default), parameter, name, f"of {notebook}")
    return changed
