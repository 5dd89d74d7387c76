"""Seconds a training step, measured in turns: the store's own times are of runs that had different neighbours."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from kd_lib import cost, models, session, train
from kd_lib.config import Run
from kd_lib.data.images import image_data
from kd_lib.shapes import Batch

CLASSES, PIXELS = 100, (3, 32, 32)
STEPS = 3


def step_times(
    methods: Sequence[str] = ("kd", "ft_kd", "pesf_kd"),
    *,
    student: str = "resnet20",
    teacher: str = "resnet56",
    batch_size: int = 32,
    rounds: int = 16,
) -> pd.DataFrame:
    """A few steps of each method a round, one method after the other, so that a busy moment falls on all alike.

    A round counts the median of its `STEPS` steps. A step is the forward pass of both networks and the backward pass of what
    moves, on noise in CIFAR-100's shape, on one thread. The update is left out: it is a small part of it.

    Returns:
        One row a method and round: method, repeat (the round), seconds, doublings (log2 of the seconds).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = {method: _step(method, student, teacher, batch_size) for method in methods}
        for step in steps.values():
            cost.step_seconds(step, repeats=1, warmup=1)  # the first ones choose kernels and take memory
        rows = [
            {"method": method, "repeat": round_, "seconds": cost.step_seconds(step, repeats=STEPS, warmup=0)}
            for round_ in range(rounds)
            for method, step in steps.items()
        ]
    finally:
        torch.set_num_threads(threads)
    return pd.DataFrame(rows).assign(doublings=lambda table: np.log2(table["seconds"]))


def _step(method: str, student: str, teacher: str, batch_size: int) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    n = max(batch_size, CLASSES)  # a data set needs an image of each class
    pixels = torch.randint(0, 256, (n, *PIXELS), dtype=torch.uint8, generator=generator).numpy()
    part = (pixels, (torch.arange(n) % CLASSES).numpy())
    images = image_data("noise", part, part, [str(c) for c in range(CLASSES)], "none")
    run = Run(network=student, method=method, teacher=Run(network=teacher, data="digits100"), data="digits100")
    device = torch.device("cpu")
    made = session.start(run, images, device=device, precision="fp32", teacher_network=models.build(teacher))
    made.parts.train()
    x = torch.randn(batch_size, *PIXELS, generator=generator).contiguous(memory_format=torch.channels_last)
    batch = Batch(torch.arange(batch_size), x, images.train_y[:batch_size])

    def step() -> None:
        made.optimiser.zero_grad(set_to_none=True)
        sum(train.loss_terms(made, batch, progress=1.0)[1].values()).backward()

    return step
