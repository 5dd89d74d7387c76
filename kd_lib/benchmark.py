"""Throughput of a distillation step: a plain loop against ours, in one call, in turns.

The plain loop is what a first implementation does: fp32, default memory order, teacher under `no_grad`, torch's default settings.
Ours is `train.loss_terms` as every run uses it. Each loop has processes of its own, since ours changes how its process
allocates memory; they take turns, step by step, so that a busy neighbour slows all alike.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from torch.nn import functional as F

from kd_lib import hardware, models
from kd_lib.config import Run
from kd_lib.data.images import image_data
from kd_lib.session import Session, share_teacher, start
from kd_lib.shapes import Batch
from kd_lib.train import loss_terms

Step = Callable[[], None]
TOGETHER = 4  # students side by side
WARM_UP = 3  # the first steps choose kernels and take memory


def throughput(
    *,
    student: str = "resnet20",
    teacher: str = "resnet56",
    batch_size: int = 64,
    rounds: int = 20,
    cores: int = 1,
    device: str = "auto",
) -> dict[str, float]:
    """Images a second at 3x32x32, 100 classes, that all students together learn from; medians over `rounds` steps taken in turns.

    Returns:
        One run on all cores: "plain" (fp32), "fp32" (ours without bf16), "ours", the ratios "fp32/plain" and "ours/plain", and
        "further student": what one more student of the same teacher costs side by side (`session.share_teacher`), as a part of a
        lone one's time.
        Many runs: "plain runs", one a core, and "our runs" as `plan` trains those of a notebook: a process a core, each with four
        students of one teacher. "our runs/plain" is their ratio to the faster of the two ways of plain loops.
    """
    context = multiprocessing.get_context("spawn")
    loops = {name: (name, 1, cores) for name in ("plain", "fp32", "ours", "together")}
    loops |= {"plain runs": ("plain", cores, 1), "our runs": ("together", cores, 1)}
    ends: dict[str, list[Connection]] = {}
    workers = []
    for key, (name, processes, threads) in loops.items():
        ends[key] = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            arguments = (theirs, name, student, teacher, batch_size, threads, device)
            workers.append(context.Process(target=_serve, args=arguments, daemon=True))
            workers[-1].start()
            ends[key].append(ours)
    seconds: dict[str, list[float]] = {key: [] for key in loops}
    for round_ in range(rounds + WARM_UP):
        for key, group in ends.items():
            for end in group:
                end.send(True)
            took = max(end.recv() for end in group)
            if round_ >= WARM_UP:
                seconds[key].append(took)
    for worker in workers:
        worker.terminate()
    step = {key: statistics.median(times) for key, times in seconds.items()}
    students = {"plain": 1, "fp32": 1, "ours": 1, "plain runs": cores, "our runs": cores * TOGETHER}
    rate = {key: n * batch_size / step[key] for key, n in students.items()}
    return rate | {
        "fp32/plain": rate["fp32"] / rate["plain"],
        "ours/plain": rate["ours"] / rate["plain"],
        "our runs/plain": rate["our runs"] / max(rate["plain"], rate["plain runs"]),
        "further student": (step["together"] / step["ours"] - 1) / (TOGETHER - 1),
    }


def _serve(end: Connection, name: str, student: str, teacher: str, batch_size: int, threads: int, device: str) -> None:
    """Take one step whenever asked, and answer with the seconds it took."""
    torch.set_num_threads(threads)
    place = hardware.find_device(device)
    torch.manual_seed(0)
    x = torch.randint(0, 256, (batch_size, 3, 32, 32), dtype=torch.uint8)
    y = torch.arange(batch_size) % 100
    precision = "fp32" if name == "fp32" else hardware.find_precision("auto", place)
    students = [student] * (TOGETHER if name == "together" else 1)
    step = (
        _plain(student, teacher, x, y, place) if name == "plain" else _ours(students, teacher, x, y, place, precision)
    )
    while end.recv():
        began = time.perf_counter()
        step()
        if place.type == "cuda":
            torch.cuda.synchronize()
        end.send(time.perf_counter() - began)


def _plain(student: str, teacher: str, x: torch.Tensor, y: torch.Tensor, device: torch.device) -> Step:
    s, t = models.build(student).to(device).train(), models.build(teacher).to(device).eval()
    optimiser = torch.optim.SGD(s.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    images, labels = (x.to(device).float() / 255 - 0.5) / 0.25, y.to(device)

    def step() -> None:
        with torch.no_grad():
            z_t = t(images).logits
        z_s = s(images).logits
        kd = F.kl_div(F.log_softmax(z_s / 4, 1), F.softmax(z_t / 4, 1), reduction="batchmean") * 16
        loss = 0.9 * kd + 0.1 * F.cross_entropy(z_s, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def _ours(
    students: list[str], teacher: str, x: torch.Tensor, y: torch.Tensor, device: torch.device, precision: str
) -> Step:
    names = tuple(str(c) for c in range(100))
    labels = torch.arange(100).numpy()
    part = (torch.randint(0, 256, (100, 3, 32, 32), dtype=torch.uint8).numpy(), labels)
    images = image_data("benchmark", part, part, names, "crop_flip")
    network, common = models.build(teacher), {"device": device, "precision": precision}
    sessions: list[Session] = []
    for student in students:
        run = Run(network=student, method="kd", teacher=Run(network=teacher, data="digits100"), data="digits100")
        sessions.append(start(run, images, teacher_network=network, **common))
        sessions[-1].parts.train()
    share_teacher(sessions)
    normal = (x.to(device).float() / 255 - 0.5) / 0.25
    for group in (group for session in sessions for group in session.optimiser.param_groups):
        group["lr"] = 0.05

    def step() -> None:
        x = normal.clone(memory_format=torch.channels_last)  # a batch that the shared teacher has not seen
        batch = Batch(torch.arange(len(y)), x, y.to(device))
        for session in sessions:
            _, terms = loss_terms(session, batch, progress=0.0)
            session.optimiser.zero_grad(set_to_none=True)
            sum(terms.values()).backward()
            session.optimiser.step()

    return step
