"""What every metric does to its arguments first."""

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from kd_lib.errors import unknown
from kd_lib.losses import sigma

Array: TypeAlias = Any
"""A torch tensor, a NumPy array, or nested lists of numbers."""
MetricTemperature: TypeAlias = float | Array | Literal["sigma"]
"""A positive number, [N, 1] for one per sample, or "sigma" for each sample's own standard deviation."""


def matrix(name: str, values: Array) -> Tensor:
    """A float64 copy [N, C] on the CPU, without gradients.

    Args:
        name: what the values are called in an error.
        values: logits or features, a row for each sample.
    Raises:
        ValueError: not a matrix, or one without rows or columns.
    """
    values = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if values.ndim != 2 or values.numel() == 0:
        raise ValueError(f"{name} must be a filled [N, C] matrix, got shape {list(values.shape)}.")
    return values


def matrix_pair(z_s: Array, z_t: Array) -> tuple[Tensor, Tensor]:
    """Logits of student and teacher, both as `matrix`.

    Raises:
        ValueError: shapes that differ.
    """
    z_s, z_t = matrix("z_s", z_s), matrix("z_t", z_t)
    if z_s.shape != z_t.shape:
        raise ValueError(f"logits must have one shape, got student {list(z_s.shape)} and teacher {list(z_t.shape)}.")
    return z_s, z_t


def labels(y: Array, n: int) -> Tensor:
    """Labels [N] as int64 on the CPU.

    Raises:
        ValueError: not one label for each of the n samples.
    """
    y = torch.as_tensor(y).detach().to("cpu", torch.int64)
    if y.shape != (n,):
        raise ValueError(f"y must hold one label for each of {n} samples, got shape {list(y.shape)}.")
    return y


def temperature(tau: MetricTemperature, z: Tensor) -> Tensor:
    """A temperature that broadcasts against the logits it divides.

    Args:
        tau: what the caller was given.
        z: the logits [N, C], as `matrix` returns them.
    Returns:
        One element, or [N, 1].
    Raises:
        ValueError: an unknown name, a shape that is not [N, 1], a temperature that is not positive.
    """
    if isinstance(tau, str):
        if tau != "sigma":
            raise unknown("temperature", tau, ("sigma", "a positive number", "[N, 1] positive numbers"))
        return sigma(z)
    value = torch.as_tensor(tau, dtype=torch.float64, device="cpu").detach()
    if value.numel() != 1 and value.shape != (len(z), 1):
        raise ValueError(f"a temperature must be one number or [{len(z)}, 1], got shape {list(value.shape)}.")
    if not bool((value > 0).all()):
        raise ValueError(f"a temperature must be positive, got {value.min().item()}.")
    return value
