"""The papers' numbers as files, and the loader: exact names, lists of names, and errors that help."""

import csv
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from kd_lib import papers

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("paper", papers.PAPERS)
def test_files_have_the_agreed_columns(paper):
    with (papers.FOLDER / f"{paper}.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    assert tuple(lines[0]) == papers.COLUMNS
    assert {line[0] for line in lines[1:]} == {paper}
    assert all(len(line) == len(papers.COLUMNS) and re.fullmatch(r"[^|]+ \| [^|]+", line[3]) for line in lines[1:])


def test_files_ship_with_the_package():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    names = [path.name for path in papers.FOLDER.iterdir() if path.is_file() and path.suffix != ".py"]
    assert len(names) == 5 and all(any(fnmatch(name, pattern) for pattern in declared) for name in names)


def test_inconsistencies_are_complete():
    listed = papers.inconsistencies()
    assert list(listed.columns) == ["id", "papers", "where", "claim", "evidence", "reading"]
    assert listed["id"].is_unique and (listed != "").all(axis=None)
    assert listed["id"].str.startswith("pesf-").sum() == 27
    assert all(name in papers.PAPERS for text in listed["papers"] for name in text.split())


def test_load_filters_by_exact_names_and_lists():
    everything = papers.load()
    assert list(everything["paper"].unique()) == list(papers.PAPERS)
    assert list(everything.columns) == [*papers.COLUMNS, "pair", "metric", "printed"]
    one = papers.load("pesf_v2", table="1", row="DML", column="resnet56->resnet20 | accuracy")
    assert one["value"].tolist() == [71.40] and one["printed"].tolist() == ["71.40"] and one.index.tolist() == [0]
    assert one["spread"].isna().all()
    kd = papers.load("pesf_v2", table="1", row="KD", column="resnet56->resnet20")
    assert (kd["value"].item(), kd["spread"].item(), kd["pair"].item()) == (70.95, 0.51, "resnet56->resnet20")
    both = papers.load(["pesf_v1", "pesf_v2"], table=["1", "7"], row=("KD", "DML"), column="params")
    assert set(both["row"]) == {"KD", "DML"} and set(both["metric"]) == {"params"} and len(both) == 16
    union = papers.load("pesf_v1", table="1", row="KD", column=["accuracy", "vgg13->vgg8"])
    assert len(union) == 4 + 2, "a list lets through what any of its names lets through"
    assert papers.load("pesf_v1", row=[]).empty


@pytest.mark.parametrize(
    ("filters", "near"),
    [
        ({"paper": "atdk"}, "'atkd'"),
        ({"paper": "pesf_v1", "table": 1}, "'1'"),
        ({"row": ["KD", "PESFKD"]}, "'PESF-KD'"),
        ({"paper": "pesf_v1", "column": "acuracy"}, "'accuracy'"),
        ({"paper": "pesf_v1", "column": "resnet56->resnet2O"}, "'resnet56->resnet20'"),
        ({"paper": "pesf_v1", "column": "vgg13->vgg8 | param"}, "'vgg13->vgg8 | params'"),
    ],
)
def test_unknown_names_are_told_the_nearest(filters, near):
    with pytest.raises(ValueError, match=re.escape(f"Did you mean {near}?")):
        papers.load(**filters)


def test_a_name_that_another_filter_excludes_is_unknown():
    with pytest.raises(ValueError, match=r"unknown row .* 'SSKD'"):
        papers.load("pesf_v1", row="SSKD")
