"""Random logits, and the formulas of losses written with Python loops: what the tests compare with."""

import math

import torch


def logits(*shape: int, seed: int = 0, spread: float = 3.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread).to(dtype)


def pair(b: int = 5, c: int = 7, *, grad: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    return logits(b, c, seed=1).requires_grad_(grad), logits(b, c, seed=2, spread=4.0).requires_grad_(grad)


def slow_softmax(row: list[float], tau: float = 1.0) -> list[float]:
    weights = [math.exp(value / tau) for value in row]
    return [weight / sum(weights) for weight in weights]


def slow_kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def slow_sigma(row: list[float], ddof: int = 0) -> float:
    mean = sum(row) / len(row)
    return math.sqrt(sum((value - mean) ** 2 for value in row) / (len(row) - ddof))
