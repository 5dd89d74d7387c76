"""What this machine has: the report of `python -m kd_lib doctor`."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

import torch

from kd_lib import data, hardware, torchvision_shim
from kd_lib.paths import data_folder, store_root

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "datasets",
    "numpy",
    "scikit-learn",
    "matplotlib",
    "seaborn",
    "papermill",
    "wordfreq",
    "accelerate",
)


def report() -> str:
    """Versions, torchvision's health, processor, memory, disk and the data that was found, a line each."""
    device = hardware.find_device()
    precision = hardware.find_precision("auto", device)
    lines = [f"python        {platform.python_version()}", *(f"{name:14}{_version(name)}" for name in PACKAGES)]
    lines += [
        f"torchvision   {_torchvision()}",
        f"device        {device} ({_processor(device)}), computes in {precision}",
        f"cores         {os.cpu_count()}, {torch.get_num_threads()} threads in this process, one a training process",
        f"run store     {store_root()}, {_disk(store_root())}",
        f"KD_DATA       {data_folder() or 'not set'}",
        *(f"  {line}" for line in data.found()),
    ]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torchvision() -> str:
    try:
        repaired = torchvision_shim.repair()
        from torchvision.models import resnet18

        resnet18()
    except Exception as error:  # whatever is wrong with it is what the reader wants to know
        return f"does not work: {type(error).__name__}: {error}"
    return "works, its missing operators declared by kd_lib" if repaired else "works"


def _processor(device: torch.device) -> str:
    return str(hardware.describe(device, "")["processor"])


def _disk(folder: Path) -> str:
    existing = next(place for place in [folder, *folder.parents] if place.exists())
    used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.exists() else 0
    return f"{used / 1e6:.0f} MB used, {shutil.disk_usage(existing).free / 1e9:.0f} GB free"
