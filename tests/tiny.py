"""The smallest runs that are still real: used by many tests."""

from kd_lib.config import Run
from kd_lib.methods import METHODS
from kd_lib.teachers import POLICIES

TINY = {
    "data": "digits100",
    "data_settings": {"n_train": 200, "n_test": 100},
    "epochs": 2,
    "batch_size": 40,
    "schedule": "one_cycle",
    "lr": 0.05,
}
TEACHER = Run(network="resnet8-w4", **TINY)


TEXT = {
    "data": "word_language",
    "data_settings": {"n_train": 200, "n_test": 100},
    "epochs": 2,
    "batch_size": 40,
    "optimiser": "adamw",
    "schedule": "linear",
    "lr": 3e-3,
}
TEXT_TEACHER = Run(network="bert-l4-d16-p10", **TEXT)
FOR_TEXTS = {"pkd", "tinybert", "pesf_kd_layers"}  # presets that need transformers


def student(method: str = "kd", **changes) -> Run:
    """A tiny student of the tiny teacher."""
    return Run(**{"network": "resnet8-w2", "teacher": TEACHER, "method": method, "seed": 1, **TINY, **changes})


def text_student(method: str = "kd", **changes) -> Run:
    """The same of transformers."""
    return Run(
        **{"network": "bert-l2-d16-p10", "teacher": TEXT_TEACHER, "method": method, "seed": 1, **TEXT, **changes}
    )


SETUP = {"settings": {"setup_epochs": 1}}
SPECIAL = {
    "ab": SETUP,
    "ft": SETUP,
    "fsp": {**SETUP, "network": "resnet8-w4"},  # needs stages as wide as the teacher's
    "sskd": SETUP,
    "tinybert": SETUP,
    "crd": {"settings": {"negatives": 64}},
    "sftn": {"settings": {"student": "resnet8-w2"}, "network": "resnet8-w4"},
    "sftn_finetuned": {"settings": {"student": "resnet8-w2", "setup_epochs": 1}, "network": "resnet8-w4"},
}


def example(method: str, **changes) -> Run:
    """A tiny run of any preset, with what it needs: of texts those that no network for images can run."""
    preset = METHODS[method]
    if method in FOR_TEXTS:
        return text_student(method, **{**SPECIAL.get(method, {}), **changes})
    among_peers = POLICIES[preset.policy].from_scratch
    kind = {"peers": ("resnet8-w4",)} if among_peers else {}
    if method == "sftn_finetuned":
        kind["start_from"] = TEACHER
    if among_peers or not preset.method.needs_teacher:
        kind["teacher"] = None
    return student(method, **{**kind, **SPECIAL.get(method, {}), **changes})
