"""Names of networks: which are known without building them, and builders of one's own behind "package.module:function"."""

import re
import sys
import types

import pytest
import torch
from torch import nn

from kd_lib.models import build, check


@pytest.mark.parametrize("name", ["resnet20", "shufflenetv1", "torchvision-resnet18-imagenet1k"])
def test_checking_a_name_moves_no_generator(name):
    before = torch.random.get_rng_state()
    check(name)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shufflenetv3", "unknown network: 'shufflenetv3'. Did you mean 'shufflenetv"),
        ("resnet20-imagenet1k", "unknown network: 'resnet20-imagenet1k'."),
        ("torchvision-resnet20", "Did you mean 'torchvision-resnet50'? Allowed: torchvision-resnet18, torchvision-"),
        ("torchvision-resnet20-imagenet1k", "Allowed: torchvision-resnet18, torchvision-resnet34"),
        ("no_such_module:f", "there is no module 'no_such_module' on the import path. Put its folder into PYTHONPATH"),
        ("kd_lib.no_such:f", "there is no module 'kd_lib.no_such' on the import path"),
        ("kd_lib.models.vgg:vggs", "unknown function of module kd_lib.models.vgg: 'vggs'. Did you mean 'vgg'?"),
        ("kd_lib.models.vgg:WIDTHS", "unknown function of module kd_lib.models.vgg: 'WIDTHS'."),
        ("kd_lib.models.vgg:vgg", "vgg(n_classes=..., in_channels=...), which it does not take: missing a required"),
    ],
)
@pytest.mark.parametrize("ask", [check, build])
def test_name_that_is_no_network(name, message, ask):
    with pytest.raises(ValueError, match=re.escape(message)):
        ask(name)


@pytest.fixture
def mine(monkeypatch):
    """A module of somebody's own, on the import path."""
    module = types.ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def test_builder_of_ones_own(mine):
    mine.small = lambda n_classes, in_channels: build("resnet8-w2", n_classes=n_classes, in_channels=in_channels)
    check("mine:small")
    assert build("mine:small", n_classes=3, in_channels=1)(torch.randn(2, 1, 8, 8)).logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (nn.Linear(2, 3), r"Linear has no classifier, keep_preactivations, forward_from\. Return .*Staged\("),
        (None, r"NoneType has no classifier"),
        (build("resnet8-w2", n_classes=4), r"built for 4 classes, asked for 3\. Pass n_classes on"),
    ],
)
def test_builder_that_returns_something_else(mine, returned, message):
    mine.small = lambda n_classes, in_channels: returned
    with pytest.raises(ValueError, match="'mine:small'.*" + message):
        build("mine:small", n_classes=3)


def test_error_inside_a_module_of_ones_own_is_its_own(tmp_path, monkeypatch):
    (tmp_path / "broken_inside.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        check("broken_inside:small")
