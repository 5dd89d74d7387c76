"""Published notebooks: outputs beside the code and nothing else, and when they no longer belong to it."""

import json
import sys
from pathlib import Path

import pytest
import toy_notebooks
from tiny import TEACHER
from toy_notebooks import DEMO, write_notebook

from kd_lib import notebooks
from kd_lib.paths import project_root
from kd_lib.plan import ensure
from kd_lib.runner import main, source_hash, stale

folder, two = toy_notebooks.folder, toy_notebooks.two  # fixtures


def test_publishing_puts_outputs_beside_the_code_and_nothing_else(folder, capsys):
    cells = ("prose", "# Q"), ("parameters", f"{DEMO}\nepochs = 3"), ("", "print('a')\nprint('b')"), ("", "epochs * 2")
    path = write_notebook(folder, "01_a", *cells, ("", ""))
    before = notebooks.read(path)
    assert stale(before) == ["it was not published: metadata.kd is missing"]
    assert main(["--publish"], notebooks=folder) == 0
    text = path.read_text()
    after = json.loads(text)
    assert stale(after) == []
    assert text.startswith('{\n "cells": [\n  {') and text.endswith("}\n") and not text.endswith("\n\n")
    stamp = after["metadata"].pop("kd")
    assert stamp == {"scale": "demo", "seconds": stamp["seconds"], "source": source_hash(before)}
    assert after["metadata"] == before["metadata"]
    for old, new in zip(before["cells"], after["cells"], strict=True):
        assert notebooks.source(new) == old["source"]
        assert (new["id"], new["metadata"]) == (old["id"], old["metadata"])
    counts = [cell["execution_count"] for cell in after["cells"] if cell["cell_type"] == "code"]
    assert counts == [1, 2, 3, None]
    assert after["cells"][2]["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["a\n", "b\n"]}]
    assert after["cells"][3]["outputs"][0]["execution_count"] == 3
    assert after["cells"][3]["outputs"][0]["data"] == {"text/plain": ["6"]}
    assert main(["--publish"], notebooks=folder) == 0
    again = json.loads(path.read_text())
    del again["metadata"]["kd"]
    assert again == after


def test_other_scales_are_published_beside_the_notebooks(folder, capsys):
    path = write_notebook(folder, "01_a", ("parameters", f"{DEMO}\nepochs = 3"), ("", "print(scale, epochs * 2)"))
    (folder / "scales.yaml").write_text("demo: {}\nshort: {all: {epochs: 5}}")
    before = path.read_bytes()
    assert main(["--publish", "--scale", "short"], notebooks=folder) == 0
    assert path.read_bytes() == before
    copy = notebooks.read(folder / "short" / "01_a.ipynb")
    assert copy["metadata"]["kd"]["scale"] == "short" and copy["metadata"]["kd"]["source"] == source_hash(copy)
    assert copy["cells"][-1]["outputs"][0]["text"] == ["short 10\n"]
    assert notebooks.source(copy["cells"][1]) == "scale = 'short'\nepochs = 5"
    assert [cell["execution_count"] for cell in copy["cells"]] == [1, 2, 3]
    assert main(["--list"], notebooks=folder) == 0
    assert capsys.readouterr().out.count("01 ") == 1, "a copy is no notebook of its own"


def test_published_notebooks_come_with_the_ledger_of_their_runs(folder):
    (trained,) = ensure([TEACHER])
    cells = ("imports", "import kd_lib as kd"), ("parameters", DEMO)
    runs = f"runs = {{'teacher': kd.Run(**{TEACHER.model_dump(exclude_defaults=True)})}}"
    write_notebook(folder, "01_a", *cells, ("runs", runs))
    assert main(["--publish"], notebooks=folder) == 0
    (path,) = (folder.parent / "figures").glob("*/*/*")
    assert path.relative_to(folder.parent).as_posix() == "figures/demo/runs/01_a.csv"
    assert path.read_text().splitlines()[1].startswith(f'{trained.run.key},"resnet8-w4, seed 0"')


def test_nothing_is_published_where_one_notebook_fails_or_shows_this_machine(folder, capsys):
    paths = [write_notebook(folder, "01_a", ("parameters", DEMO), ("", "print(1)"))]
    paths += [write_notebook(folder, "02_b", ("parameters", DEMO), ("", "import sys\nprint(sys.prefix)"))]
    before = [path.read_bytes() for path in paths]
    assert main(["--publish"], notebooks=folder) == 1
    told = capsys.readouterr().err
    assert (
        f"nothing is published: 02_b, code cell 2 (`import sys`): its output holds the machine's path {sys.prefix}"
        in told
    )
    paths[1] = write_notebook(folder, "02_b", ("parameters", DEMO), ("", "1 / 0"))
    before[1] = paths[1].read_bytes()
    assert main(["--publish"], notebooks=folder) == 1
    assert [path.read_bytes() for path in paths] == before


def test_demo_is_what_the_notebooks_declare(two, capsys):
    (two / "scales.yaml").write_text("demo: {00_first: {epochs: 4}}")
    assert main(["--publish"], notebooks=two) == 2
    assert "00_first declares, but scales.yaml sets {'epochs': 4}" in capsys.readouterr().err


def executed_notebook(**changes):
    def code(source, count, outputs=(), tags=()):
        metadata = {"tags": list(tags)}
        content = {"source": source, "execution_count": count, "outputs": list(outputs)}
        return {"cell_type": "code", "metadata": metadata} | content

    cells = [code(DEMO, 1, tags=["parameters"]), code(["a = 1\n", "a"], 2), code("", None)]
    return {"cells": cells, "metadata": {}} | changes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda n: n["cells"][1].update(source="a = 2\na"), "code changed after the outputs were made"),
        (lambda n: n["cells"].reverse(), "code changed after the outputs were made"),
        (lambda n: n["cells"][1].update(execution_count=None), "code cell 2 (`a = 1`): not executed"),
        (lambda n: n["cells"][1].update(execution_count=7), "execution counts are [1, 7], not 1 to 2"),
        (lambda n: n["metadata"]["kd"].update(scale="smoke"), "outputs are of scale 'smoke', not 'demo'"),
        (
            lambda n: n["cells"][1]["outputs"].append({"output_type": "error", "ename": "E", "evalue": "v"}),
            "code cell 2 (`a = 1`): E: v",
        ),
        (
            lambda n: n["cells"].append(n["cells"][0] | {"metadata": {"tags": ["injected-parameters"]}}),
            "it holds injected parameters",
        ),
    ],
)
def test_outputs_that_do_not_belong_to_the_code_are_noticed(change, reason):
    notebook = executed_notebook()
    notebook["metadata"]["kd"] = {"scale": "demo", "seconds": 1, "source": source_hash(notebook)}
    assert stale(notebook) == []
    change(notebook)
    assert reason in stale(notebook)


def test_the_hash_of_the_code_depends_on_code_alone():
    notebook = executed_notebook()
    same = executed_notebook(metadata={"any": 1})
    same["cells"][1] |= {"source": "a = 1\na", "outputs": [1], "execution_count": 9}
    same["cells"].insert(0, {"cell_type": "markdown", "source": "prose", "metadata": {}})
    assert source_hash(same) == source_hash(notebook)
    moved = executed_notebook()
    moved["cells"][0]["source"] += "\na = 1\n"
    moved["cells"][1]["source"] = "a"
    assert source_hash(moved) != source_hash(notebook), "a line that moves to another cell is a change"


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ({"output_type": "stream", "text": [f"{Path.home()}/x\n"]}, True),
        ({"output_type": "stream", "text": f"see ({project_root()})"}, True),
        ({"output_type": "stream", "text": f"{Path.home()}-and-more"}, False),
        ({"output_type": "display_data", "data": {"text/html": f"<a href='{sys.prefix}/lib'>"}}, True),
        ({"output_type": "display_data", "data": {"application/json": {"a": [str(Path.home())]}}}, True),
        ({"output_type": "display_data", "data": {"image/png": f"{Path.home()}/"}}, False),
    ],
)
def test_paths_of_this_machine_are_found_in_text_but_not_in_encoded_images(output, found):
    executed = executed_notebook()
    executed["cells"][1]["outputs"] = [output]
    if found:
        with pytest.raises(ValueError, match=r"code cell 2 \(`a = 1`\): its output holds the machine's path"):
            notebooks.published(executed_notebook(), executed, 1.0)
    else:
        assert stale(notebooks.published(executed_notebook(), executed, 1.0)) == []
