"""`python -m kd_lib notebooks`: checks every parameter, trains what is missing, executes the notebooks.

Nothing heavy is imported before all arguments are known to be right.
"""

import argparse
import os
import shlex
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kd_lib import notebooks as files
from kd_lib.errors import unknown
from kd_lib.notebooks import collect_runs, source_hash, stale
from kd_lib.parameters import SCALES, Parameter, declared, from_scales, on_request, with_overrides
from kd_lib.paths import project_root, store_root

if TYPE_CHECKING:
    from kd_lib.config import Run
    from kd_lib.execution import Result

__all__ = ["collect_runs", "main", "source_hash", "stale"]

FINE, FAILED, BAD_ARGUMENTS, INTERRUPTED = 0, 1, 2, 130


class Selected(NamedTuple):
    """One notebook of the selection.

    Attributes:
        path: the file.
        notebook: its content.
        parameters: what it declares.
        values: what it gets, by name.
    """

    path: Path
    notebook: dict
    parameters: dict[str, Parameter]
    values: dict[str, object]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def changed(self) -> dict[str, object]:
        """The values that differ from the defaults."""
        return {name: value for name, value in self.values.items() if value != self.parameters[name].default}


def main(argv: list[str], *, notebooks: Path | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments after `python -m kd_lib notebooks`.
        notebooks: the folder of the notebooks and of `scales.yaml`; `notebooks/` of the checkout by default.
    Returns:
        0 fine, 1 something failed while running, 2 bad arguments, 130 interrupted.
    """
    try:
        arguments = _parse(argv)
        selection = _select(notebooks or project_root() / "notebooks", arguments)
    except SystemExit as stop:  # argparse: help, or an error it has printed
        return stop.code
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_ARGUMENTS
    if arguments.list:
        _print_list(selection, arguments.on_request)
        return FINE
    from kd_lib.execution import interruptible

    with interruptible() as end_children:
        try:
            return _dry_run(selection, arguments) if arguments.dry_run else _run(selection, arguments)
        except KeyboardInterrupt as stop:
            end_children()
            where = f" in {stop}" if str(stop) else ""
            print(f"\ninterrupted{where}; nothing unfinished has a final name.", file=sys.stderr)
            command = shlex.join(["python", "-m", "kd_lib", "notebooks", *argv])
            print(f"To go on, run the same command again: finished runs are kept.\n  {command}", file=sys.stderr)
            return INTERRUPTED


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m kd_lib notebooks",
        description="Trains what the notebooks need and is missing, then executes them to $KD_RUNS/notebooks/SCALE.",
        epilog="exit status: 0 fine, 1 something failed while running, 2 bad arguments, 130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("--scale", default="demo", help=f"one of {', '.join(SCALES)} (default: %(default)s)")
    parser.add_argument("--only", metavar="NN[,NN]", help="numbers of the notebooks (default: the scale's main ones)")
    parser.add_argument("--all", action="store_true", help="every notebook, those that take longer among them")
    parser.add_argument(
        "-p",
        dest="set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a parameter, for each selected notebook that has it",
    )
    parser.add_argument("--jobs", metavar="N", type=int, help="processes at a time (default: one a core)")
    parser.add_argument(
        "--list", action="store_true", help="the notebooks, their questions and parameters at this scale"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="what would be trained and executed, with the estimated cost"
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="copy the executed notebooks, with outputs: those of demo over the notebooks, others to notebooks/SCALE/",
    )
    options = [option for action in parser._actions for option in action.option_strings]
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        raise unknown("argument", rest[0], options)
    if arguments.scale not in SCALES:
        raise unknown("scale", arguments.scale, SCALES)
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ValueError(f"--jobs expects at least 1, got {arguments.jobs}")
    if arguments.publish and (arguments.scale == "smoke" or (arguments.scale == "demo" and arguments.set)):
        raise ValueError("--publish is for scale demo with its own parameters, and for short and paper: leave out -p")
    return arguments


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _select(folder: Path, arguments: argparse.Namespace) -> list[Selected]:
    """The notebooks that were asked for, with their values checked; ValueError says what is wrong."""
    import yaml

    found = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    contents = {name: files.read(path) for name, path in found.items()}
    parameters = {name: _declared(name, notebook) for name, notebook in contents.items()}
    if not found:
        raise ValueError(f"no notebooks (NN_name.ipynb) in {folder}")
    try:
        scales = yaml.safe_load((folder / "scales.yaml").read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"scales.yaml is not YAML: {error}") from None
    values = from_scales(parameters, scales, arguments.scale)
    arguments.on_request = on_request(scales, arguments.scale, list(found))
    arguments.left_out = [] if arguments.all or arguments.list or arguments.only else arguments.on_request
    names = _numbered(arguments.only, list(found)) if arguments.only else list(found)
    names = [name for name in names if name not in arguments.left_out]
    values = with_overrides({name: values[name] for name in names}, parameters, arguments.set)
    selection = [Selected(found[name], contents[name], parameters[name], values[name]) for name in names]
    for one in selection:
        if arguments.publish and arguments.scale == "demo" and one.changed:
            raise ValueError(f"scale demo is what {one.name} declares, but scales.yaml sets {one.changed}")
    return selection


def _declared(name: str, notebook: dict) -> dict[str, Parameter]:
    cell = files.tagged(notebook, "parameters")
    if cell is None:
        raise ValueError(f"{name} has no cell tagged 'parameters'")
    return declared(files.source(cell), f"the parameters cell of {name}")


def _numbered(only: str, names: list[str]) -> list[str]:
    numbers = [part.strip().zfill(2) for part in only.split(",")]
    for number in numbers:
        if not any(name[:2] == number for name in names):
            raise unknown("notebook", number, names)
    return [name for name in names if name[:2] in numbers]


def _print_list(selection: list[Selected], on_request: list[str]) -> None:
    for one in selection:
        seconds = files.expected_seconds(one.notebook)
        cost = f"  [{seconds} s at demo scale, once its runs are there]" if seconds else ""
        when = "  [on request: --only or --all]" if one.name in on_request else ""
        print(f"{one.name[:2]}  {files.question(one.notebook)}{cost}{when}")
        for name, value in one.values.items():
            text = f"{name} = {value!r}"
            print(textwrap.indent(f"{text:38}  {one.parameters[name].help}".rstrip(), "      "))


def _collect(selection: list[Selected]) -> "tuple[dict[str, list[Run]], list[str]]":
    """The runs of each notebook that can be planned, and what is wrong with the others."""
    runs, problems = {}, []
    for one in selection:
        try:
            runs[one.name] = collect_runs(one.path, one.changed)
        except ValueError as error:
            problems.append(f"cannot plan {error}")
    return runs, problems


def _dry_run(selection: list[Selected], arguments: argparse.Namespace) -> int:
    runs, problems = _collect(selection)
    wanted = [run for own in runs.values() for run in own]
    if wanted:
        from kd_lib.plan import describe, plan

        print(describe(plan(wanted), arguments.jobs))
    elif not problems:
        print("No runs are needed.")
    print("\nNotebooks that would be executed:")
    for one in selection:
        if one.name in runs:
            print(f"  {one.name} -> {_shown(_output(one))}")
    _say_left_out(arguments)
    for problem in problems:
        print(problem, file=sys.stderr)
    return FINE


def _run(selection: list[Selected], arguments: argparse.Namespace) -> int:
    from kd_lib.execution import Task, execute_all
    from kd_lib.parallel import launched

    if launched():
        print("Several processes train one run: `run KEY`. Start the notebooks without a launcher.", file=sys.stderr)
        return BAD_ARGUMENTS
    runs, problems = _collect(selection)
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return FAILED
    blocked = _train(runs, arguments.jobs)
    ready = [one for one in selection if one.name not in blocked]
    ready.sort(key=lambda one: -files.expected_seconds(one.notebook))  # so that no long one is left alone at the end
    tasks = [Task(one.name, files.with_parameters(one.notebook, one.changed), _output(one)) for one in ready]
    results = execute_all(tasks, directory=selection[0].path.parent, jobs=arguments.jobs or _cores())
    failures = blocked | {result.name: result.failure for result in results if result.failure}
    _summarise(selection, results, failures)
    _say_left_out(arguments)
    if failures:
        return FAILED
    return _publish(selection, results, arguments.scale, runs) if arguments.publish else FINE


def _train(runs: "dict[str, list[Run]]", jobs: int | None) -> dict[str, str]:
    """Trains what is missing for all notebooks in one go; returns those with unfinished runs, and why."""
    wanted = [run for own in runs.values() for run in own]
    if not wanted:
        return {}
    from kd_lib.plan import RunFailed, execute, plan

    try:
        execute(wanted, jobs=jobs)
        return {}
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or "the training of runs") from None
    except RunFailed as error:
        print(error, file=sys.stderr)
    blocked = {}
    for name, own in runs.items():
        missing = [step.label for step in plan(own) if step.state != "done"] if own else []
        if missing:
            more = f" and {len(missing) - 1} more" if missing[1:] else ""
            blocked[name] = f"not executed, because a run failed: {missing[0]}{more} not finished"
    return blocked


def _output(one: Selected) -> Path:
    return store_root() / "notebooks" / str(one.values["scale"]) / one.path.name


def _shown(path: Path) -> str:
    """Relative to the working directory, where the path is below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _summarise(selection: list[Selected], results: "list[Result]", failures: dict[str, str]) -> None:
    seconds = {result.name: f"{result.seconds:.1f} s" for result in results}
    width = max(len(one.name) for one in selection)
    print()
    for one in selection:
        name, path = one.name, _shown(_output(one))
        state = "failed" if name in failures else "ok"
        print(f"{name:{width}}  {state:6}  {seconds.get(name, ''):>9}  {failures.get(name, path)}")
        if name in failures and _output(one).exists():
            print(f"{'':{width}}  an earlier result is still there: {path}")
    failed = f"; failed: {', '.join(sorted(failures))}" if failures else ""
    print(f"\n{len(selection) - len(failures)} of {len(selection)} notebooks ok{failed}")


def _say_left_out(arguments: argparse.Namespace) -> None:
    if arguments.left_out:
        numbers = ",".join(name[:2] for name in arguments.left_out)
        print(f"Left out, because they train longer: {', '.join(arguments.left_out)}. To run them: --only {numbers}")


def _publish(selection: list[Selected], results: "list[Result]", scale: str, runs: "dict[str, list[Run]]") -> int:
    """Puts outputs where they are committed, with their runs' ledgers: all of them, or none where one is not fit to be.

    Those of demo go into the notebooks themselves, those of other scales into copies in a folder of the scale's name.
    """
    from kd_lib import ledger

    folder = selection[0].path.parent if scale == "demo" else selection[0].path.parent / scale
    seconds = {result.name: result.seconds for result in results}
    ready = {}
    for one in selection:
        try:
            code = files.with_parameters(files.read(one.path), one.changed)
            ready[folder / one.path.name] = files.published(code, files.read(_output(one)), seconds[one.name], scale)
        except ValueError as error:
            print(f"nothing is published: {one.name}, {error}", file=sys.stderr)
            return FAILED
    folder.mkdir(exist_ok=True)
    for path, notebook in ready.items():
        files.write(path, notebook)
        ledger.write(runs[path.stem], path.stem, scale, selection[0].path.parents[1] / "figures")
    print(f"published {len(ready)} to {_shown(folder)}")
    return FINE
