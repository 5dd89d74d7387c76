"""`Run`: the strict description of one training run, and the key under which its results are kept."""

import hashlib
import inspect
import json
import re
from functools import cached_property, lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from kd_lib import data, models
from kd_lib.errors import unknown
from kd_lib.methods import METHODS, Method
from kd_lib.teachers import POLICIES, Teacher

VERSION = 1  # of the training loop: raise it when the same Run would train to something else


class ConfigError(ValueError):
    """A field that does not exist or a value that is not allowed, with the nearest that is."""


class Strict(BaseModel):
    """A pydantic model that takes no unknown field and says what was probably meant."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def __init__(self, /, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError("; ".join(_readable(e, type(self)) for e in error.errors())) from None


def _readable(error: dict, model: type[BaseModel]) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return str(unknown(f"field of {model.__name__}", where, model.model_fields))
    if error["type"] == "literal_error":
        allowed = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return str(unknown(where, error["input"], allowed))
    return f"{where}: {error['msg']}, got {error['input']!r}" if where else error["msg"]


@lru_cache
def _settings_model(part: type[Method] | type[Teacher]) -> type[BaseModel]:
    """The keyword arguments of a method or policy as a strict model: names, types and defaults come from its signature."""
    fields = {}
    for owner in part.__mro__:
        if "__init__" not in vars(owner):
            continue
        arguments = inspect.signature(owner.__init__, eval_str=True).parameters.values()
        mine = {a.name: (a.annotation, a.default) for a in arguments if a.kind is inspect.Parameter.KEYWORD_ONLY}
        fields = {**mine, **fields}
        if not any(a.kind is inspect.Parameter.VAR_KEYWORD for a in arguments):
            break  # with **common the rest stands in the parent's signature
    return create_model(part.__name__, __base__=Strict, **fields)


@lru_cache
def _check_network(name: str) -> None:
    models.check(name)


class Run(Strict):
    """One training run, fully described. Equal descriptions have equal keys, whatever the preset is called.

    The defaults are the CIFAR-100 protocol of all four papers (METHODS section 0); `protocol` gives those of other data sets.

    Attributes:
        network: what trains, a name in `models.MODELS` ("resnet20", "resnet8-w4", "vgg8").
        data, data_settings, split: the data set; split "validation" keeps the test part unseen.
        teacher: the run that made the teacher; None for a network trained alone or among peers.
        peers: networks that train beside it from scratch, for the methods of policy "peers".
        start_from: the run whose trained weights it starts with; None starts from fresh ones.
        student_layers: start as a part of the trained teacher, a transformer: its embeddings, its "first" layers or "every-second"
            one, its pooler and classifier.
        stop_after: stop after so many of its `epochs`, the schedule unchanged: the same run, caught early.
        method: a preset in `methods.METHODS`.
        policy: who moves; None takes the preset's.
        settings: changed hyper-parameters of method and policy by name; one that both have goes to both.
        epochs, batch_size, lr, weight_decay: as they are called everywhere; lr is the peak.
        optimiser: "sgd" (with `momentum`) or "adamw" (betas .9 and .999; `momentum` is not read).
        schedule: "step" (x0.1 at `milestones`, fractions of the run), "one_cycle", "cosine", or "linear" (up over the first tenth
            of the run, then down to 0).
        seed: of initialisation, batch order and augmentation.
        precision: "bf16" (autocast), "fp32", or "auto": bf16 where the processor computes in it.
    """

    network: str
    data: str = "cifar100"
    data_settings: dict[str, Any] = {}
    split: Literal["test", "validation"] = "test"
    teacher: "Run | None" = None
    peers: tuple[str, ...] = Field((), strict=False)  # JSON has lists only
    start_from: "Run | None" = None
    student_layers: Literal["first", "every-second"] | None = None
    stop_after: int | None = Field(None, ge=1)
    method: str = "alone"
    policy: str | None = None
    settings: dict[str, Any] = {}
    epochs: int = Field(240, ge=1)
    batch_size: int = Field(64, ge=2)
    lr: float = Field(0.05, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    schedule: Literal["step", "one_cycle", "cosine", "linear"] = "step"
    milestones: tuple[float, ...] = Field((150 / 240, 180 / 240, 210 / 240), strict=False)  # JSON has lists only
    seed: int = 0
    precision: Literal["auto", "bf16", "fp32"] = "auto"

    def model_post_init(self, context: Any) -> None:
        if self.method not in METHODS:
            raise ConfigError(str(unknown("method", self.method, METHODS)))
        if self.policy is not None and self.policy not in POLICIES:
            raise ConfigError(str(unknown("teacher policy", self.policy, POLICIES)))
        among_peers = self.policy_type.from_scratch
        if among_peers != POLICIES[METHODS[self.method].policy].from_scratch:
            raise ConfigError(f"method {self.method!r} does not go with policy {self.policy!r}")
        if (self.method_type.needs_teacher and not among_peers) != (self.teacher is not None):
            raise ConfigError(f"method {self.method!r} needs {'no' if self.teacher else 'a'} teacher")
        if among_peers != bool(self.peers):
            raise ConfigError(f"method {self.method!r} needs {'no peers' if self.peers else 'peers=(network, ...)'}")
        for parent in self.parents:
            if any(getattr(self, f) != getattr(parent, f) for f in ("data", "data_settings", "split")):
                raise ConfigError("a run needs the same data, data_settings and split as its teacher and its start")
        if self.start_from and self.start_from.network != self.network:
            raise ConfigError(f"{self.network} cannot start from the weights of {self.start_from.network}")
        if self.student_layers and (self.teacher is None or self.start_from):
            raise ConfigError("student_layers are copied from the run's teacher: give it a teacher, and no start_from")
        if self.stop_after and self.stop_after > self.epochs:
            raise ConfigError(f"stop_after={self.stop_after} is beyond the run's {self.epochs} epochs")
        try:
            for name in (self.network, *self.peers):
                _check_network(name)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.method_settings, self.policy_settings  # noqa: B018 (raises for a setting nobody has)

    @property
    def parents(self) -> "tuple[Run, ...]":
        """The runs that must be finished before this one."""
        return tuple(parent for parent in (self.teacher, self.start_from) if parent is not None)

    @property
    def setup_epochs(self) -> int:
        """Epochs of the method's initialisation phase, before the run's own."""
        return self.method_settings.get("setup_epochs", self.method_type.setup_epochs)

    @property
    def total_epochs(self) -> int:
        """Epochs that are trained: `setup_epochs`, then `epochs` or, where it stops early, `stop_after`."""
        return self.setup_epochs + (self.stop_after or self.epochs)

    @property
    def method_type(self) -> type[Method]:
        return METHODS[self.method].method

    @property
    def policy_type(self) -> type[Teacher]:
        return POLICIES[self.policy or METHODS[self.method].policy]

    @cached_property
    def _all_settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        preset = METHODS[self.method]
        mine = {**(preset.settings if self.policy in (None, preset.policy) else {}), **self.settings}
        parts = [_settings_model(self.method_type), _settings_model(self.policy_type)]
        allowed = [name for part in parts for name in part.model_fields]
        for name in mine:
            if name not in allowed:
                raise ConfigError(str(unknown(f"setting of method {self.method!r}", name, dict.fromkeys(allowed))))
        return tuple(part(**{k: v for k, v in mine.items() if k in part.model_fields}).model_dump() for part in parts)

    @property
    def method_settings(self) -> dict[str, Any]:
        """Every keyword argument of the method, defaults included."""
        return self._all_settings[0]

    @property
    def policy_settings(self) -> dict[str, Any]:
        """Every keyword argument of the teacher's policy, defaults included."""
        return self._all_settings[1]

    @cached_property
    def key(self) -> str:
        """16 hex digits: hash of the description without defaults, the parents' keys and the data's content."""
        text = json.dumps(self._canonical(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _canonical(self) -> dict[str, Any]:
        named = {"data", "data_settings", "teacher", "start_from", "method", "policy", "settings"}
        plain = {k: v for k, v in self.model_dump(exclude_defaults=True).items() if k not in named}
        parts = [(self.method_type, self.method_settings)]
        if self.start_from:
            plain["start_from"] = self.start_from.key
        if self.teacher:
            plain["teacher"] = self.teacher.key
        if self.teacher or self.peers:
            parts.append((self.policy_type, self.policy_settings))
        for role, (part, settings) in zip(("method", "policy"), parts, strict=False):
            fields = _settings_model(part).model_fields
            changed = {name: value for name, value in settings.items() if value != fields[name].default}
            plain[role] = [part.__name__, part.version, changed]
        return {**plain, "data": data.fingerprint(self.data, **self.data_settings), "version": VERSION}

    @property
    def label(self) -> str:
        """A short name for people, such as "resnet8-w4 pesf_kd from resnet20-w32, tau=2.0, seed 1"."""
        source = "" if self.method == "alone" else f" {self.method}"
        source += f" from {self.teacher.network}" if self.teacher else ""
        source += f" with {', '.join(self.peers)}" if self.peers else ""
        source += f", stopped after {self.stop_after}" if self.stop_after else ""
        source += f", started from {self.start_from.method}" if self.start_from else ""
        source += f", {self.student_layers} layers of it" if self.student_layers else ""
        policy = f" x {self.policy}" if self.policy else ""
        changed = "".join(f", {k}={v}" for k, v in self.settings.items())
        return f"{self.network}{source}{policy}{changed}, seed {self.seed}"

    def replace(self, **changes: Any) -> "Run":
        """The same run with some fields changed, checked anew."""
        return Run(**{name: getattr(self, name) for name in self.model_fields_set} | changes)


IMAGENET = {"epochs": 100, "batch_size": 256, "lr": 0.1, "weight_decay": 1e-4, "milestones": (0.3, 0.6, 0.9)}
WORDS = {"optimiser": "adamw", "schedule": "linear", "epochs": 4, "batch_size": 128, "lr": 4e-3, "weight_decay": 0.01}
GLUE = {**WORDS, "epochs": 3, "batch_size": 32, "lr": 3e-5}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "digits100": {"epochs": 8, "lr": 0.2, "schedule": "one_cycle"},
    "cifar100": {},
    "svhn": {},
    "word_language": WORDS,
    "glue": GLUE,
    "imagenet": IMAGENET,
    "pictures": IMAGENET,
    "jpegs": {"epochs": 8, "batch_size": 32, "lr": 0.1, "schedule": "one_cycle"},
}


def protocol(data: str, **changes: Any) -> dict[str, Any]:
    """Fields of `Run` that a data set is trained with: its own defaults, then `changes` that are not None.

    `Run(network="resnet20", **protocol("digits100", epochs=5))`. A data set of one's own starts from the CIFAR-100 protocol,
    one of encoded pictures ("pictures:PATH") from ImageNet's.
    """
    return {
        "data": data,
        **PROTOCOLS.get(re.split("[:/]", data)[0], {}),
        **{k: v for k, v in changes.items() if v is not None},
    }
