"""The shim on broken and healthy installs: stubs that register operators as torchvision does, and the real one here."""

import shutil
import subprocess
import sys
from pathlib import Path

import markupsafe._speedups
import pytest

ROOT = Path(__file__).resolve().parents[1]
FAKE_KERNELS = """
import torch

@torch.library.register_fake("torchvision::nms")
def meta_nms(dets, scores, iou_threshold):
    return scores.new_empty(0)

@torch.library.register_fake("torchvision::qnms")
def meta_qnms(dets, scores, iou_threshold):
    return scores.new_empty(0)
"""
# What the C++ library of a healthy install does when it is loaded. Declaring an operator twice is an error.
OPERATORS = """
import torch

for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.library.impl(f"torchvision::{name}", "CPU", lambda dets, scores, iou_threshold: torch.tensor([7]))
"""
CALL = "torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)"


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new process with these folders first on its path."""
    lines = ["import sys", f"sys.path[:0] = {[str(place) for place in [*path, ROOT]]}", code]
    return subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120)


def output(code: str, *path: Path) -> str:
    result = run(code, *path)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def stub(folder: Path, *, library: Path | str | None, body: str) -> Path:
    """A `torchvision` whose C++ library is a file to copy, some text that is no library, or missing."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(body)
    if isinstance(library, Path):
        shutil.copy(library, package / "_C.so")
    elif library is not None:
        (package / "_C.so").write_text(library)
    return folder


@pytest.fixture(params=["unloadable", "missing"])
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    library = "built for another torch" if request.param == "unloadable" else None
    return stub(tmp_path, library=library, body=FAKE_KERNELS)


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    return stub(tmp_path, library=Path(markupsafe._speedups.__file__), body=OPERATORS + FAKE_KERNELS)


def test_the_broken_stub_fails_as_torchvision_does(broken: Path) -> None:
    assert "operator torchvision::nms does not exist" in run("import torchvision", broken).stderr


def test_repair_makes_a_broken_install_importable(broken: Path) -> None:
    code = "from kd_lib.torchvision_shim import repair\nprint(repair(), repair())\nimport torchvision"
    assert output(code, broken) == "True True"


def test_repair_helps_after_a_failed_import(broken: Path) -> None:
    code = """
try:
    import torchvision
except RuntimeError:
    from kd_lib.torchvision_shim import repair
    print(repair())
import torchvision
"""
    assert output(code, broken) == "True"


def test_declared_operators_outlive_garbage_collection_and_cannot_be_called(broken: Path) -> None:
    code = f"""
import gc, torch
from kd_lib.torchvision_shim import repair
repair()
gc.collect()
try:
    {CALL}
except NotImplementedError as error:
    print(error)
"""
    assert "torchvision::nms" in output(code, broken)


def test_repair_is_a_no_op_on_a_healthy_install(healthy: Path) -> None:
    code = (
        f"import torch\nfrom kd_lib.torchvision_shim import repair\nprint(repair())\nimport torchvision\nprint({CALL})"
    )
    assert output(code, healthy).splitlines() == ["False", "tensor([7])"]


def test_repair_after_a_healthy_import_is_a_no_op(healthy: Path) -> None:
    code = f"import torch, torchvision\nfrom kd_lib.torchvision_shim import repair\nprint(repair())\nprint({CALL})"
    assert output(code, healthy).splitlines() == ["False", "tensor([7])"]


def test_repair_does_nothing_without_torchvision() -> None:
    code = """
import importlib.util
from kd_lib import torchvision_shim
torchvision_shim.find_spec = lambda name: None if name == "torchvision" else importlib.util.find_spec(name)
import torch
print(torchvision_shim.repair(), hasattr(torch.ops.torchvision, "nms"))
"""
    assert output(code) == "False False"


def test_other_errors_of_torchvision_are_not_hidden(tmp_path: Path) -> None:
    folder = stub(tmp_path, library=None, body=FAKE_KERNELS + "raise OSError('no libjpeg')")
    assert (
        "no libjpeg" in run("from kd_lib.torchvision_shim import repair\nrepair()\nimport torchvision", folder).stderr
    )


REAL = """
import torch
from kd_lib.torchvision_shim import repair
repair()
from torchvision.models import resnet18
print(tuple(resnet18().eval()(torch.zeros(1, 3, 32, 32)).shape))
"""


def test_real_torchvision_and_transformers_work_after_repair() -> None:
    assert output(REAL + "from transformers import BertModel\nprint(BertModel.__name__)").splitlines() == [
        "(1, 1000)",
        "BertModel",
    ]


def test_real_broken_torchvision_explains_itself_when_an_operator_is_called() -> None:
    if run("import torchvision").returncode == 0:
        pytest.skip("torchvision is healthy here, so there is nothing to repair")
    assert "operator torchvision::nms does not exist" in run("import torchvision").stderr
    result = run(REAL + "from torchvision.ops import nms\nnms(torch.zeros(1, 4), torch.zeros(1), 0.5)")
    assert "Couldn't load custom C++ ops" in result.stderr
