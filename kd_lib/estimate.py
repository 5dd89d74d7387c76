"""How long a run will take and how large it will be, before it is trained."""

import json
from functools import lru_cache
from itertools import chain
from statistics import median

import torch

from kd_lib import cost, data, models
from kd_lib.config import Run
from kd_lib.paths import store_root

ENOUGH = 30  # finished runs of a data set that say how fast this machine is


@lru_cache
def _shape_cost(network: str, sizes: tuple[tuple[str, int], ...], shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Multiply-adds of one sample's forward pass, number of layers, number of parameters."""
    with torch.random.fork_rng(devices=[]):
        built = models.build(network, **dict(sizes), published=False)
    layers = sum(1 for m in built.modules() if not list(m.children()))
    return cost.multiply_adds(built, shape), layers, cost.parameters(built)


def work_units(run: Run) -> float:
    """Work of a run, in seconds of a core of 2026: 65 billion multiply-adds a second (bf16) and 115 microseconds a layer call.

    Only ratios matter: `plan` scales it by what finished runs took here.
    """
    dataset = data.load(run.data, split=run.split, **run.data_settings)
    n = len(dataset.train_y)

    def seconds(network: str, passes: float) -> float:
        macs, layers, _ = _shape_cost(network, tuple(dataset.sizes.items()), dataset.input_shape)
        return passes * (macs * n / 65e9 + layers * 115e-6 * n / run.batch_size)

    student = seconds(run.network, 3.0) + seconds(run.network, 1.0) * len(dataset.test_y) / n
    beside = sum(seconds(peer, 3.0) for peer in run.peers)
    if run.teacher is not None and run.policy_type.backbone_moves:
        beside += seconds(run.teacher.network, 3.0)
    elif run.teacher is not None and (dataset.augmented or run.method_type.needs_live_teacher()):
        beside += seconds(run.teacher.network, 1.0)
    if grown := run.method_settings.get(run.method_type.grows):  # parts of that network, all together about the whole
        beside += seconds(str(grown), 3.0)
    return run.total_epochs * run.method_type.views * (student + beside)


def seconds_left(expected: float, share: float, elapsed: float) -> float:
    r"""Time to the end of work that was expected to take some time: the expectation at first, then more and more what was seen.

    .. math:: (1 - s) \left((1 - s)\, \hat T + s\, \frac{t}{s}\right)

    Args:
        expected: seconds for all of it, before it began.
        share: s, of the work that is done, from 0 to 1.
        elapsed: t, seconds since it began.
    """
    return (1 - share) * ((1 - share) * expected + elapsed)


def paces(names: set[str]) -> dict[str, float]:
    """Seconds that a work unit took in the store's runs of each data set; those of the others where it has none, 1 without any."""
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for folder in sorted((store_root() / "done").glob("*")):
        try:
            text = (folder / "config.json").read_text()
            known = ratios.get(json.loads(text)["data"])
            if known is None or len(known) == ENOUGH:  # not to load data that nobody asked for
                continue
            log = (folder / "metrics.jsonl").read_text().splitlines()
            known.append(sum(json.loads(line)["seconds"] for line in log) / work_units(Run.model_validate_json(text)))
        except (OSError, ValueError, KeyError):
            continue  # a damaged run is somebody else's business: `ensure` and `verify` name it
    every = list(chain(*ratios.values()))
    return {name: median(known or every or [1.0]) for name, known in ratios.items()}


def megabytes(run: Run) -> float:
    """Size of a finished run in the store: its weights, logits and embeddings."""
    dataset = data.load(run.data, split=run.split, **run.data_settings)
    _, _, parameters = _shape_cost(run.network, tuple(dataset.sizes.items()), dataset.input_shape)
    return 4e-6 * (parameters + len(dataset.test_y) * (dataset.n_classes + 64))
