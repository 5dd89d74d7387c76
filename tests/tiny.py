"""The smallest runs that are still real: used by many tests."""

from kd_lib.config import Run

TINY = {
    "data": "digits100",
    "data_settings": {"n_train": 200, "n_test": 100},
    "epochs": 2,
    "batch_size": 40,
    "schedule": "one_cycle",
    "lr": 0.05,
}
TEACHER = Run(network="resnet8-w4", **TINY)


def student(method: str = "kd", **changes) -> Run:
    """A tiny student of the tiny teacher."""
    return Run(**{"network": "resnet8-w2", "teacher": TEACHER, "method": method, "seed": 1, **TINY, **changes})
