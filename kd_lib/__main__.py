"""`python -m kd_lib`: notebooks, plan, run, verify, doctor, benchmark."""

import argparse
import os
import signal
import sys
from pathlib import Path

from kd_lib import runner


def main(argv: list[str]) -> int:
    """Run a command; returns the exit code."""
    if argv[:1] == ["notebooks"]:
        return runner.main(argv[1:])
    if argv[:1] == ["plan"]:
        return runner.main([*argv[1:], "--dry-run"])
    parser = argparse.ArgumentParser("python -m kd_lib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("notebooks", help="train what is missing, execute the notebooks (what ./run_all.sh does)")
    commands.add_parser(
        "plan", help="what the notebooks need: runs in the store or new, time, disk; takes --scale, --only, -p"
    )
    run = commands.add_parser(
        "run", help="train one run, or show it if it is done; by several GPUs: see kd_lib.parallel"
    )
    run.add_argument(
        "run", help='a run\'s key (or its first digits), a JSON file, or JSON: \'{"network": "resnet20"}\''
    )
    run.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    run.add_argument(
        "--threads", type=int, default=1, help="default 1; results are bit-identical for equal numbers only"
    )
    commands.add_parser(
        "verify",
        help="re-hash every run, compare the committed numbers and verdicts with them; exit code 1 for a fault",
    )
    commands.add_parser("doctor", help="versions, torchvision's health, processor, memory, disk, data found")
    speed = commands.add_parser("benchmark", help="images a second of a distillation step: a plain loop against ours")
    speed.add_argument("--student", default="resnet20")
    speed.add_argument("--teacher", default="resnet56")
    speed.add_argument("--cores", type=int, default=0, help="default: all")
    speed.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args(argv)
    return {"run": _run, "verify": _verify, "doctor": _doctor, "benchmark": _benchmark}[arguments.command](arguments)


def _run(arguments: argparse.Namespace) -> int:
    import torch

    from kd_lib import parallel, plan, runs
    from kd_lib.config import Run

    if parallel.launched():  # a process that waits for its fellows cannot run a handler
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    text = arguments.run
    try:
        if not text.lstrip().startswith("{") and Path(text).is_file():
            text = Path(text).read_text()
        run = Run.model_validate_json(text) if text.lstrip().startswith("{") else runs.recall(text)
    except (ValueError, runs.NotTrained) as error:
        return _say(f"error: {error}", 2)
    torch.set_num_threads(arguments.threads)
    try:
        group = parallel.join(arguments.device)
    except (ValueError, RuntimeError) as error:
        return _say(f"error: {error}", 2)
    try:
        plan.execute([run], device=arguments.device, threads=arguments.threads)
    except plan.RunFailed as error:
        return _say(f"error: {error}", 1)
    if group.first:
        result = runs.load(run)
        print(f"{run.label}\n{result.folder}\n{result.metrics.tail(5).to_string(index=False)}")
    parallel.leave()
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from kd_lib import claims, ledger, store
    from kd_lib.parameters import SCALES
    from kd_lib.paths import store_root

    damaged, folders = [], sorted((store_root() / "done").glob("*"))
    for folder in folders:
        try:
            store.verify(folder)
        except store.Damaged as error:
            damaged.append(str(error))
    for line in damaged:
        print(line)
    print(f"{len(folders)} runs in {store_root()}: {len(folders) - len(damaged)} whole, {len(damaged)} damaged")
    if damaged:
        print("the next command that needs a damaged run sets it aside and trains it again")
    wrong, lines, verdicts = claims.incomplete_figures(), 0, 0
    for scale in () if damaged else SCALES:  # reading a damaged run would set it aside
        count, differing = ledger.compare(scale)
        lines, wrong = lines + count, wrong + differing
        count, differing = claims.compare_verdicts(scale)
        verdicts, wrong = verdicts + count, wrong + differing
    for line in wrong:
        print(line)
    print(f"committed: {lines} runs and {verdicts} verdicts compared with the store, {len(wrong)} faults")
    if wrong:
        print(
            "this checkout does not show these runs: ./run_all.sh redraws figures, with --publish all that is committed"
        )
    return 1 if damaged or wrong else 0


def _doctor(arguments: argparse.Namespace) -> int:
    from kd_lib.doctor import report

    print(report())
    return 0


def _benchmark(arguments: argparse.Namespace) -> int:
    from kd_lib.benchmark import throughput
    from kd_lib.plan import default_jobs

    cores = arguments.cores or default_jobs()
    rates = throughput(student=arguments.student, teacher=arguments.teacher, rounds=arguments.rounds, cores=cores)
    for name, value in rates.items():
        unit = "times" if "/" in name else "of a lone one's time" if name == "further student" else "images/s"
        print(f"{name:16} {value:8.{0 if unit == 'images/s' else 2}f} {unit}")
    return 0


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_say("\nstopped; run the same command again to go on: finished runs and checkpoints are kept", 130))
