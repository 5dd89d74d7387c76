"""Companion to the papers on capacity mismatch in knowledge distillation: what a notebook imports, and nothing more.

Names are loaded when they are first used, so that the command line answers before torch is there.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Run": "config",
    "protocol": "config",
    "ensure": "plan",
    "load": "runs",
    "METHODS": "methods",
    "MODELS": "models",
    "DATASETS": "data",
}
_MODULES = ("cost", "curricula", "data", "figures", "losses", "metrics", "models", "papers", "tables")

__all__ = ["METHODS", "DATASETS", "MODELS", "Run", "ensure", "load", "protocol", *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"kd_lib.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"kd_lib.{name}")
    raise AttributeError(f"module 'kd_lib' has no attribute {name!r}")
