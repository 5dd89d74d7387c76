"""Notebook files as plain dicts: their cells, the runs they declare, whether they were executed, the form to commit.

Code cell n is the n-th cell with code, as `In [n]` after an execution from top to bottom; an injected cell counts in a
published copy only.
"""

import copy
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kd_lib import paths

if TYPE_CHECKING:
    from kd_lib.config import Run

INJECTED = "injected-parameters"  # papermill's name for the tag
DECLARATIONS = ("imports", "parameters", "declarations", "runs")
IMAGE_TYPES = ("image/png", "image/jpeg", "application/pdf")


class CellProblem(NamedTuple):
    """What is wrong with one code cell.

    Attributes:
        number: of the code cell, from 1; 0 before the first one.
        line: its first line.
        error: what happened.
    """

    number: int
    line: str
    error: str

    @property
    def where(self) -> str:
        return f"code cell {self.number} (`{self.line}`)" if self.number else "before the first code cell"

    def __str__(self) -> str:
        return f"{self.where}: {self.error}"


def read(path: Path) -> dict:
    """The notebook as nested dicts, in the file's own order."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is not a notebook: {error}") from None


def write(path: Path, notebook: dict) -> None:
    """Writes in nbformat's own form, by one rename."""
    import nbformat

    text = nbformat.writes(nbformat.from_dict(notebook), version=nbformat.NO_CONVERT)
    place(path, text.rstrip("\n") + "\n")


def place(path: Path, text: str) -> None:
    """Writes a file that appears, or replaces another, by one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def source(cell: dict) -> str:
    """The text of a cell, which a file holds as a string or as lines."""
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def first_line(cell: dict, width: int = 60) -> str:
    """The first line of code, cut at `width` characters, to recognise the cell by."""
    line = source(cell).strip().splitlines()[0]
    return line if len(line) <= width else line[: width - 3] + "..."


def code_cells(notebook: dict) -> list[dict]:
    """The cells that hold code, without the one that papermill's parameters were injected in."""
    return [cell for cell in _executable(notebook) if INJECTED not in tags(cell)]


def _executable(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and source(cell).strip()]


def tagged(notebook: dict, tag: str) -> dict | None:
    """The one code cell with a tag; None where there is none.

    Raises:
        ValueError: more than one cell has it.
    """
    found = [cell for cell in code_cells(notebook) if tag in tags(cell)]
    if len(found) > 1:
        raise ValueError(f"{len(found)} cells are tagged {tag!r}, one is allowed")
    return found[0] if found else None


def question(notebook: dict) -> str:
    """The first heading, or the first line of prose, without its marks."""
    lines = [
        line.strip()
        for cell in notebook["cells"]
        if cell["cell_type"] == "markdown"
        for line in source(cell).splitlines()
    ]
    headings = [line for line in lines if line.startswith("#")]
    return next(iter([*headings, *filter(None, lines)]), "").lstrip("# ")


def with_parameters(notebook: dict, values: dict[str, object]) -> dict:
    """A copy with a cell after the parameters cell that sets `values` (papermill would turn a tuple into a string)."""
    changed = copy.deepcopy(notebook)
    if not values:
        return changed
    cell = tagged(changed, "parameters")
    code = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    injected = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {"tags": [INJECTED]},
        "outputs": [],
        "source": code,
    }
    if "id" in cell:
        injected["id"] = INJECTED
    changed["cells"].insert(changed["cells"].index(cell) + 1, injected)
    return changed


def collect_runs(path: Path, parameters: dict[str, object]) -> "list[Run]":
    """The runs that a notebook needs, from its cells tagged `imports`, `parameters`, `declarations` (what
    the runs are made of) and `runs`, executed here in order.

    Args:
        path: the notebook.
        parameters: values set after the parameters cell.
    Returns:
        What is in the variable `runs`, flattened; nothing where no cell is tagged `runs`.
    Raises:
        ValueError: a cell failed, `runs` comes before the parameters, or holds something that is not a Run; names
            the notebook and the cell.
    """
    notebook = read(path)
    runs_cell, parameters_cell = tagged(notebook, "runs"), tagged(notebook, "parameters")
    if runs_cell is None:
        return []
    cells = code_cells(notebook)
    if cells.index(runs_cell) < cells.index(parameters_cell):
        raise ValueError(f"{path.stem}: the cell tagged 'runs' comes before the parameters cell")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(cells, 1):
        if not set(tags(cell)) & set(DECLARATIONS):
            continue
        try:
            exec(compile(source(cell), f"{path.name}, code cell {number}", "exec"), namespace)
            if cell is parameters_cell:
                namespace |= parameters
            if cell is runs_cell:
                runs = list(_flat_runs(namespace["runs"]))
                _ = [run.key for run in runs]  # a key holds the data's fingerprint, so absent data is noticed here
                return runs
        except Exception as error:
            problem = CellProblem(number, first_line(cell), f"{type(error).__name__}: {error}")
            raise ValueError(f"{path.stem}, {problem}") from error
    raise AssertionError("the loop ends at the runs cell")


def _flat_runs(runs: object) -> "Iterator[Run]":
    if isinstance(runs, dict | list | tuple):
        for part in runs.values() if isinstance(runs, dict) else runs:
            yield from _flat_runs(part)
        return
    from kd_lib.config import Run

    if not isinstance(runs, Run):
        raise TypeError(f"`runs` holds {runs!r}, which is not a Run")
    yield runs


def source_hash(notebook: dict) -> str:
    """SHA-256 of the code in order, hexadecimal; prose, outputs and injected parameters do not count."""
    return hashlib.sha256("\0".join(source(cell) for cell in code_cells(notebook)).encode()).hexdigest()


def execution_problem(notebook: dict) -> CellProblem | None:
    """The first code cell that raised an error or was not executed; None where all went well."""
    for number, cell in enumerate(code_cells(notebook), 1):
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                return CellProblem(number, first_line(cell), f"{output['ename']}: {output['evalue']}")
        if cell["execution_count"] is None:
            return CellProblem(number, first_line(cell), "not executed")
    return None


def stale(notebook: dict) -> list[str]:
    """Why the outputs of a committed notebook do not belong to its code; empty where they do."""
    stamp = notebook["metadata"].get("kd")
    if stamp is None:
        return ["it was not published: metadata.kd is missing"]
    reasons = []
    if stamp["source"] != source_hash(notebook):
        reasons.append("code changed after the outputs were made")
    if stamp["scale"] != "demo":
        reasons.append(f"outputs are of scale {stamp['scale']!r}, not 'demo'")
    problem = execution_problem(notebook)
    if problem:
        reasons.append(str(problem))
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    if not problem and counts != list(range(1, len(counts) + 1)):
        reasons.append(f"execution counts are {counts}, not 1 to {len(counts)}")
    if any(INJECTED in tags(cell) for cell in notebook["cells"]):
        reasons.append("it holds injected parameters")
    return reasons


def published(committed: dict, executed: dict, seconds: float, scale: str = "demo") -> dict:
    """The committed notebook with the outputs of its execution, and nothing else of it.

    Args:
        committed: the notebook with the code, and with the cell that sets the parameters where they are not the defaults.
        executed: the same after papermill.
        seconds: what the execution took.
        scale: of the execution.
    Returns:
        A notebook without times and papermill's metadata, numbered from 1; `metadata.kd` ties outputs to code.
    Raises:
        ValueError: the code is not the same, or an output holds a path of this machine.
    """
    if source_hash(committed) != source_hash(executed):
        raise ValueError("the notebook changed while it was executed")
    result = copy.deepcopy(committed)
    for cell in result["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"execution_count": None, "outputs": []}
    for number, (cell, done) in enumerate(zip(_executable(result), _executable(executed), strict=True), 1):
        path = _machine_path(done["outputs"])
        if path:
            raise ValueError(str(CellProblem(number, first_line(cell), f"its output holds the machine's path {path}")))
        cell |= {"execution_count": number, "outputs": copy.deepcopy(done["outputs"])}
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = number
    result["metadata"]["kd"] = {"scale": scale, "seconds": round(seconds), "source": source_hash(committed)}
    return result


def expected_seconds(notebook: dict) -> int:
    """What its execution took when it was published, once its runs were there; 0 where nobody knows."""
    return notebook["metadata"].get("kd", {}).get("seconds", 0)


def _machine_path(outputs: list[dict]) -> str | None:
    """The first path of this machine in any text of the outputs."""
    places = {
        str(paths.project_root()),
        str(paths.store_root()),
        str(Path.home()),
        sys.prefix,
        tempfile.gettempdir(),
    } - {"/"}
    texts = ["".join(output.get("text", "")) for output in outputs]
    for output in outputs:  # random letters of an encoded image can look like a short path
        shown = {kind: data for kind, data in output.get("data", {}).items() if kind not in IMAGE_TYPES}
        texts += [json.dumps(data) if isinstance(data, dict) else "".join(data) for data in shown.values()]
    for place in sorted(places, key=len, reverse=True):
        if any(re.search(rf"(?<!\w){re.escape(place)}(?![\w-])", text) for text in texts):
            return place
    return None
