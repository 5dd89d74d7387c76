"""The papers' names for points of the space *what is matched* x *who moves*.

`METHODS` is the one table: a row is a method, the teacher's policy, and the settings that differ from their defaults.
A method on another policy needs no row: `Run(method="atkd", policy="adapter")`.
"""

from typing import Any, NamedTuple

from kd_lib.methods.ab import AB
from kd_lib.methods.base import Alone, Matching, Method
from kd_lib.methods.correlation import DIST
from kd_lib.methods.crd import CRD
from kd_lib.methods.decoupled import DKD
from kd_lib.methods.features import AT, NST, VID, FitNet
from kd_lib.methods.fsp import FSP
from kd_lib.methods.ft import FT
from kd_lib.methods.logits import ATKD, KD
from kd_lib.methods.mutual import DML, KDCL
from kd_lib.methods.ofd import OFD
from kd_lib.methods.relations import CC, PKT, RKD, SP
from kd_lib.methods.sftn import SFTN
from kd_lib.methods.sskd import SSKD
from kd_lib.methods.temperatures import CTKD, DTKD, SKD, TTM, WTTM, LogitStd, NormKD
from kd_lib.methods.text import PKD, TinyBERT

__all__ = [
    "AB",
    "AT",
    "ATKD",
    "CC",
    "CRD",
    "CTKD",
    "DIST",
    "DKD",
    "DML",
    "DTKD",
    "FSP",
    "FT",
    "KD",
    "KDCL",
    "METHODS",
    "NST",
    "OFD",
    "PKD",
    "PKT",
    "RKD",
    "SFTN",
    "SKD",
    "SP",
    "SSKD",
    "TTM",
    "VID",
    "WTTM",
    "Alone",
    "FitNet",
    "LogitStd",
    "Matching",
    "Method",
    "NormKD",
    "Preset",
    "TinyBERT",
]


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
    "patient": Preset(KD, settings={"tau": 1.0, "kd_weight": 1.0, "ce_weight": 0.0}),
    "skd": Preset(SKD),
    "normkd": Preset(NormKD),
    "logit_std": Preset(LogitStd),
    "dtkd": Preset(DTKD),
    "ttm": Preset(TTM),
    "wttm": Preset(WTTM),
    "ctkd": Preset(CTKD),
    "dkd": Preset(DKD),
    "dist": Preset(DIST),
    "ft_kd": Preset(KD, "finetune", {"label_adjustment": True}),
    "ft_kd_plain": Preset(KD, "finetune"),
    "pesf_kd": Preset(KD, "adapter", {"variant": "v2", "label_adjustment": True}),
    "pesf_kd_plain": Preset(KD, "adapter", {"variant": "v2"}),
    "pesf_kd_v1": Preset(KD, "adapter", {"variant": "v1"}),
    "pesf_kd_lora": Preset(
        KD, "adapter", {"variant": "v2", "label_adjustment": True, "kind": "lora", "where": "embedding"}
    ),
    "pesf_kd_parallel": Preset(
        KD, "adapter", {"variant": "v2", "label_adjustment": True, "kind": "parallel", "where": "embedding"}
    ),
    "pesf_kd_layers": Preset(KD, "layer_adapter", {"variant": "v2", "label_adjustment": True}),
    "dml": Preset(DML, "peers"),
    "kdcl_naive": Preset(KDCL, "peers"),
    "kdcl_linear": Preset(KDCL, "peers", {"target": "linear"}),
    "kdcl_minlogit": Preset(KDCL, "peers", {"target": "minlogit"}),
    "kdcl_general": Preset(KDCL, "peers", {"target": "general"}),
    "sftn": Preset(SFTN),
    "sftn_finetuned": Preset(SFTN, settings={"setup_epochs": 30}),
    "fitnet": Preset(FitNet),
    "at": Preset(AT),
    "sp": Preset(SP),
    "cc": Preset(CC),
    "vid": Preset(VID),
    "rkd": Preset(RKD),
    "pkt": Preset(PKT),
    "nst": Preset(NST),
    "crd": Preset(CRD),
    "sskd": Preset(SSKD),
    "ab": Preset(AB),
    "ft": Preset(FT),
    "fsp": Preset(FSP),
    "ofd": Preset(OFD),
    "pkd": Preset(PKD),
    "tinybert": Preset(TinyBERT),
}
