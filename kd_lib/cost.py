"""What a network and a training step cost: parameters, megabytes, multiply-adds, seconds, memory."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

BYTES_OF_FLOAT32 = 4


def parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included, shared ones once; buffers (running statistics) are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def trained_parameters(model: nn.Module) -> int:
    """Number of parameters that a gradient can move (`requires_grad`)."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def megabytes(n_parameters: float) -> float:
    """Megabytes (10^6 bytes) of so many float32 parameters.

    Source: the "params" column of PESF v1 Table 1, printed as "1.11M" for resnet20's 278,324 parameters.
    """
    return n_parameters * BYTES_OF_FLOAT32 / 1e6


def multiply_adds(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-adds of one sample's forward pass, in convolutions, linear layers and other matrix products.

    One multiply-add is two floating-point operations. Batch norms, activations, pooling and biases are not counted.

    Args:
        model: called in eval mode, then put back as it was.
        input_shape: one sample, without the batch: (3, 32, 32), or (128,) for a text of so many tokens.
    """
    anywhere = next(model.parameters())
    kind = torch.int64 if len(input_shape) == 1 else anywhere.dtype
    sample = torch.ones(1, *input_shape, device=anywhere.device, dtype=kind)
    modes = {module: module.training for module in model.modules()}
    try:
        # the CPU's fused attention is not counted; its parts are
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            model.eval()(sample)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return counter.get_total_flops() // 2


def step_seconds(step: Callable[[], object], *, repeats: int = 20, warmup: int = 3) -> float:
    """Median wall-clock seconds of one call.

    The median, because a neighbour on the machine lengthens some calls and shortens none.

    Args:
        step: what is timed; called `warmup + repeats` times.
        repeats: timed calls, at least 1.
        warmup: calls before, not timed: the first ones choose kernels and take memory.
    Raises:
        ValueError: `repeats` below 1 or `warmup` below 0.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats must be at least 1 and warmup at least 0, not {repeats} and {warmup}.")
    seconds = []
    for _ in range(warmup + repeats):
        _wait_for_device()
        began = time.perf_counter()
        step()
        _wait_for_device()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[warmup:])


def peak_memory() -> int:
    """Most bytes held at once: of tensors since the last `torch.cuda.reset_peak_memory_stats` where CUDA is in use,
    elsewhere of the whole process since it started.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    import resource  # here, because Windows has none and the rest of this file needs none

    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, kibibytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _wait_for_device() -> None:
    """Calls on an accelerator return before their work is done."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
