"""Devices, number formats and errors that help."""

import subprocess
import sys

import pytest
import torch

from kd_lib import hardware
from kd_lib.errors import unknown

CPU = torch.device("cpu")


def test_auto_takes_what_is_there():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert hardware.find_device("auto").type == expected
    assert hardware.find_device("cpu") == CPU


def test_an_unknown_or_absent_device_is_refused():
    with pytest.raises(ValueError, match="'cuda'"):
        hardware.find_device("cude")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="available: cpu"):
            hardware.find_device("cuda")


@pytest.mark.parametrize(
    ("avx", "amx", "found"), [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")]
)
def test_bf16_only_where_the_processor_has_it(monkeypatch, avx, amx, found):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert hardware.find_precision("auto", CPU) == found
    assert hardware.find_precision("fp32", CPU) == "fp32"
    assert hardware.find_precision("bf16", CPU) == "bf16"


def test_autocast_does_what_the_precision_says():
    x = torch.randn(4, 4)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with hardware.autocast(CPU, precision):
            assert (x @ x).dtype == dtype


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_training_step_takes_no_new_pages_once_freed_memory_is_kept():
    script = (
        "import resource, sys, torch\n"
        "from kd_lib import hardware, models\n"
        "if sys.argv[1] == 'keep': hardware.keep_freed_memory()\n"
        "network, x = models.build('resnet8'), torch.randn(64, 3, 32, 32)\n"
        "step = lambda: network(x).logits.logsumexp(1).mean().backward()\n"
        "for _ in range(5): step()\n"
        "before = resource.getrusage(0).ru_minflt\n"
        "for _ in range(5): step()\n"
        "print(resource.getrusage(0).ru_minflt - before)\n"
    )
    faults = {
        mode: int(
            subprocess.run([sys.executable, "-c", script, mode], capture_output=True, text=True, check=True).stdout
        )
        for mode in ("keep", "default")
    }
    assert faults["keep"] < faults["default"] / 5, faults


def test_unknown_names_bring_the_nearest_and_all():
    assert str(unknown("network", "resnet2O", ["resnet20", "vgg8"])) == (
        "unknown network: 'resnet2O'. Did you mean 'resnet20'? Allowed: resnet20, vgg8."
    )
    assert "Did you mean" not in str(unknown("network", "zzz", ["resnet20"]))
