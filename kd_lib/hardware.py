"""The machine a run is on: device, number format, threads, memory allocation."""

import ctypes
import platform
from contextlib import AbstractContextManager, suppress

import torch
from torch import nn

from kd_lib.errors import unknown

DEVICES = ("auto", "cpu", "cuda", "mps")


def find_device(name: str = "auto") -> torch.device:
    """The torch device for a name: "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ValueError: an unknown name.
        RuntimeError: a device this machine lacks.
    """
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise unknown("device", name, DEVICES)
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))
    if not present[kind]:
        raise RuntimeError(
            f"device {name!r} is not available here; available: {', '.join(k for k in present if present[k])}"
        )
    return torch.device(name)


def find_precision(wanted: str, device: torch.device) -> str:
    """ "bf16" or "fp32": what "auto" means on this device.

    bf16 is taken where the processor multiplies in it (AVX512-BF16 or AMX, or a GPU that has it); elsewhere it is emulated and slow.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"
    return "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The autocast context of a precision found by `find_precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on the device, its convolutions' weights in channels-last order."""
    return network.to(device, memory_format=torch.channels_last)


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of giving them back to the kernel after every operation.

    A training step frees and takes the same activations again and again; by default many of these are new mappings, whose pages
    the kernel must clear. A no-op elsewhere than on Linux with glibc.
    """
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # names of mallopt's options in malloc.h
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        if libc.mallopt(mmap_threshold, 32 << 20):  # the most that glibc takes; the others alone would make it worse
            libc.mallopt(trim_threshold, -1)
            libc.mallopt(top_pad, 64 << 20)


def describe(device: torch.device, precision: str) -> dict[str, str | int]:
    """What a result depends on beside its description: versions, processor, number format, threads."""
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device.type,
        "processor": processor,
        "precision": precision,
        "threads": torch.get_num_threads(),
    }
