"""The files that describe the environment agree with each other and with what the code imports."""

import ast
import importlib.metadata
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import kd_lib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
PYTHONS = ("3.11", "3.12", "3.13")
OPTIONAL = {"cluster"}  # extras that nothing needs by default, and that are not pinned
OF_ONE_BUILD = re.compile(r"nvidia-.*|cuda-.*|triton")  # what a CUDA build of torch brings along


def requirements() -> list[Requirement]:
    """What the default environment holds: the dependencies and the extra dev, which names other extras."""
    own = canonicalize_name(PROJECT["name"])
    extras, found, todo = PROJECT["optional-dependencies"], [], [*PROJECT["dependencies"], f"{own}[dev]"]
    while todo:
        requirement = Requirement(todo.pop())
        if canonicalize_name(requirement.name) == own:
            todo += [line for extra in requirement.extras for line in extras[extra]]
        else:
            found.append(requirement)
    return found


def pins(python: str) -> dict[str, Version]:
    """The versions in constraints.txt that count for a Python version, by canonical name."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    wanted = [Requirement(line) for line in lines if line]
    wanted = [pin for pin in wanted if pin.marker is None or pin.marker.evaluate({"python_version": python})]
    return {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in wanted}


def closure(python: str) -> Iterator[str]:
    """Names of everything that the requirements bring in on this platform, read from what is installed."""
    environment = default_environment() | {"python_version": python, "python_full_version": f"{python}.9"}
    todo, seen = [(canonicalize_name(r.name), frozenset(r.extras)) for r in requirements()], set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen or OF_ONE_BUILD.fullmatch(name):
            continue
        seen.add((name, extras))
        yield name
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # needed by another Python version only
            continue
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate(environment | {"extra": extra}) for extra in ("", *extras)):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_pinned_inside_its_range(python: str) -> None:
    versions = pins(python)
    for requirement in requirements():
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement
        assert any(clause.operator == ">=" for clause in requirement.specifier), f"{requirement} has no lower bound"


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_pin_all_that_the_dependencies_bring_in(python: str) -> None:
    assert sorted(set(closure(python)) - set(pins(python))) == []


@pytest.mark.skipif(sys.platform != "linux", reason="constraints.txt lists what Linux needs")
def test_constraints_pin_nothing_else() -> None:
    # What one of these Python versions alone brings in is not installed here, so its own dependencies are not known.
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert sorted(set(pins(python)) - set(closure(python))) == []


def test_every_pin_is_exact_and_holds_for_every_build() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"#.*|[a-z0-9-]+==[0-9][0-9a-z.]*( ; python_version [<=]+ \"3\.\d+\")?(  # .+)?", line), (
            line
        )


def test_pinned_releases_accept_the_first_python_that_is_promised() -> None:
    oldest = Version(PROJECT["requires-python"].removeprefix(">=") + ".0")
    versions = pins("3.11")
    for distribution in importlib.metadata.distributions():
        name, accepted = canonicalize_name(distribution.metadata["Name"]), distribution.metadata["Requires-Python"]
        if accepted and versions.get(name) == Version(distribution.version):
            assert oldest in SpecifierSet(accepted), f"{name} {distribution.version} asks for Python {accepted}"


def test_conda_environment_installs_the_package_with_its_constraints() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge"]
    python, pip, installed = environment["dependencies"]
    assert Version(python.removeprefix("python=")) in SpecifierSet(PROJECT["requires-python"])
    assert pip == "pip"
    assert installed == {"pip": ["-c constraints.txt", "-e .[dev]"]}


def test_run_all_and_conda_install_the_same() -> None:
    assert "-c constraints.txt -e '.[dev]'" in (ROOT / "run_all.sh").read_text()


def test_name_version_licence_and_authors_agree() -> None:
    assert canonicalize_name(PROJECT["name"]) != "kd-lib"  # another project's name
    assert PROJECT["version"] == CITATION["version"] == kd_lib.__version__
    assert PROJECT["license"] == CITATION["license"] == "MIT"
    (author,) = PROJECT["authors"]
    assert CITATION["authors"] == [author]
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License")
    assert re.search(rf"^Copyright \(c\) \d{{4}} {author['name']}$", text, re.M)


def code_of(path: Path) -> str:
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(code_of(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("pattern", ["kd_lib/**/*.py", "notebooks/*.ipynb"])
def test_every_import_is_a_declared_dependency(pattern: str) -> None:
    extras = [line for extra in OPTIONAL for line in PROJECT["optional-dependencies"][extra]]
    declared = {canonicalize_name(r.name) for r in [*requirements(), *map(Requirement, extras)]}
    homes = importlib.metadata.packages_distributions()
    for path in ROOT.glob(pattern):
        for module in set(imported(path)) - set(sys.stdlib_module_names) - {"kd_lib"}:
            names = {canonicalize_name(name) for name in homes.get(module, [module])}
            assert names & declared, f"{path.name} imports {module}, which pyproject.toml does not list"
