"""The papers' names for points of the space *what is matched* x *who moves*.

`METHODS` is the one table: a row is a method, the teacher's policy, and the settings that differ from their defaults.
A method on another policy needs no row: `Run(method="atkd", policy="adapter")`.
"""

from typing import Any, NamedTuple

from kd_lib.methods.base import Alone, Matching, Method
from kd_lib.methods.logits import ATKD, KD

__all__ = ["ATKD", "KD", "METHODS", "Alone", "Matching", "Method", "Preset"]


class Preset(NamedTuple):
    """A named point: what is matched, who moves (a name in `teachers.POLICIES`), settings of either."""

    method: type[Method]
    policy: str = "frozen"
    settings: dict[str, Any] = {}  # noqa: RUF012 (never changed)


METHODS: dict[str, Preset] = {
    "alone": Preset(Alone),
    "kd": Preset(KD),
    "kd_adjusted": Preset(KD, settings={"label_adjustment": True}),
    "atkd": Preset(ATKD),
    "atkd_sigma": Preset(ATKD, settings={"scale": "sigma"}),
    "atkd_16": Preset(ATKD, settings={"scale": 16.0}),
    "ft_kd": Preset(KD, "finetune", {"label_adjustment": True}),
    "ft_kd_plain": Preset(KD, "finetune"),
    "pesf_kd": Preset(KD, "adapter", {"variant": "v2", "label_adjustment": True}),
    "pesf_kd_plain": Preset(KD, "adapter", {"variant": "v2"}),
    "pesf_kd_v1": Preset(KD, "adapter", {"variant": "v1"}),
}
