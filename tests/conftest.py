"""What every test gets: a run store of its own, one thread, fixed seeds, no network, no window."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

# Read when the libraries are imported, so set before that, here and in every process that a test starts.
os.environ.update(OMP_NUM_THREADS="1", MPLBACKEND="Agg", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def run_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """KD_RUNS for all tests of a process; a test that counts runs points it elsewhere with `monkeypatch.setenv`."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_RUNS", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def repeatable() -> None:
    """Each test starts from the same random state, whichever ran before it, on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture
def shared_data() -> Path:
    """A folder with real data sets in the hub's layout: `$KD_DATA`, or `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("KD_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return folder
