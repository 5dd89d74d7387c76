"""Small notebooks in a folder of their own, and where the runner puts them: what the tests of the runner share."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEMO = 'scale = "demo"'


def write_notebook(folder: Path, name: str, *cells: tuple[str, str]) -> Path:
    """Cells are (tag, source); the tag "prose" makes a Markdown cell."""
    made = []
    for number, (tag, source) in enumerate(cells):
        cell = {"cell_type": "markdown", "id": f"c{number}", "metadata": {}, "source": source}
        if tag != "prose":
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
            cell["metadata"] = {"tags": [tag]} if tag else {}
        made.append(cell)
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    path = folder / f"{name}.ipynb"
    content = {"cells": made, "metadata": kernel | {"language_info": {"name": "python"}}, "nbformat": 4}
    path.write_text(json.dumps(content | {"nbformat_minor": 5}))
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty notebooks folder with a scales.yaml; the run store lies beside it."""
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "store"))
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "scales.yaml").write_text("demo:\nsmoke:\n")
    return folder


@pytest.fixture
def two(folder):
    """Two notebooks without runs."""
    first = f"{DEMO}\nepochs = 3  # of each student\nlr = 0.1\nseeds = [0, 1]\nsizes = (8, 16)\nlimit = None"
    write_notebook(folder, "00_first", ("prose", "# What is it?"), ("parameters", first), ("runs", "runs = []"))
    write_notebook(folder, "04_second", ("prose", "Why?"), ("parameters", f"{DEMO}\nepochs = 5\nplot = True"))
    return folder


def output(folder: Path, name: str, scale: str = "demo") -> Path:
    return folder.parent / "store" / "notebooks" / scale / f"{name}.ipynb"
