"""Where things lie: the checkout, the run store, the data."""

import os
from pathlib import Path


def project_root() -> Path:
    """The checkout that holds `notebooks/` and `figures/`; the working directory where the package is installed without one."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


def store_root() -> Path:
    """The folder of finished runs, checkpoints and data caches: `$KD_RUNS`, or `runs/` in the checkout."""
    return Path(os.environ.get("KD_RUNS") or project_root() / "runs").expanduser().resolve()


def data_folder() -> Path | None:
    """`$KD_DATA`, a folder with data sets in the hub's or torchvision's layout; None where it is not set."""
    folder = os.environ.get("KD_DATA")
    return Path(folder).expanduser().resolve() if folder else None
