"""`Staged` networks, among them torchvision's: what the hooks read, and what they say when they cannot."""

import copy

import pytest
import torch
from test_models import with_learned_statistics
from torch import nn
from torch.nn import functional as F

from kd_lib.models import Staged, build, fold_batchnorm, torchvision_resnet


class Plain(nn.Module):
    """A network as strangers write them: activations in place, log-probabilities returned."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.act1 = nn.ReLU(inplace=True)
        self.layer2 = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.unused = nn.Conv2d(3, 3, 1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        f = self.layer2(self.act1(self.layer1(x)))
        return F.log_softmax(self.fc(f.mean((2, 3))), 1)


NAMES = {"stages": ["layer1", "layer2"], "classifier": "fc"}


def staged(**changes) -> Staged:
    return Staged(Plain(), **{**NAMES, **changes})


@pytest.mark.parametrize("keep", [False, True])
def test_outputs_are_the_named_modules(keep):
    model, x = staged(preactivations=["act1", "layer2.1"]), torch.randn(2, 3, 8, 8)
    model.keep_preactivations = keep
    outputs, network = model(x), model.network
    f1 = network.layer1(x)
    z2 = network.layer2[0](f1.relu())
    expected = (f1, z2.relu())
    for f, wanted in zip(outputs.maps, expected, strict=True):
        torch.testing.assert_close(f, wanted)
    assert outputs.maps[0].min() < 0, "the ReLU after the stage has changed its map"
    torch.testing.assert_close(outputs.preactivations, (f1, z2) if keep else ())
    torch.testing.assert_close(outputs.embedding, z2.relu().mean((2, 3)))
    torch.testing.assert_close(outputs.logits, network.fc(outputs.embedding))
    assert not torch.allclose(outputs.logits, network(x))


def test_maps_lie_on_the_way_to_the_logits():
    outputs = staged()(torch.randn(2, 3, 8, 8))
    for f in outputs.maps:
        assert torch.autograd.grad(outputs.logits.square().sum(), f, retain_graph=True)[0].abs().sum() > 0


def test_a_copy_reads_its_own_modules():
    model, x = staged().eval(), torch.randn(2, 3, 8, 8)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.network.layer1[0].weight.zero_()
        assert not torch.equal(model(x).maps[0], other(x).maps[0])
        torch.testing.assert_close(fold_batchnorm(model)(x).logits, model(x).logits)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_weights_are_the_networks_own():
    """Each tensor once: safetensors refuses two names for one."""
    model = staged()
    assert list(model.state_dict()) == [f"network.{key}" for key in Plain().state_dict()]
    assert model.classifier is model.network.fc and len(model.stages) == 2


def test_hooks_are_gone_after_an_error():
    model = staged()
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 4, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_autocast_leaves_embedding_and_logits_in_float32():
    model = staged()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(torch.randn(2, 3, 8, 8))
    assert outputs.logits.dtype == outputs.embedding.dtype == torch.float32
    assert outputs.maps[1].dtype == torch.bfloat16
    torch.testing.assert_close(outputs.logits, F.linear(outputs.embedding, *model.network.fc.parameters()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stages": ["layer1", "layer3"]},
            r"Plain has no module 'layer3'\. Did you mean 'layer\d'\? Its parts: layer1,",
        ),
        ({"classifier": "head"}, r"Plain has no module 'head'\. Its parts: layer1, act1, layer2, unused, fc;"),
        ({"classifier": "layer1"}, "the classifier must be nn.Linear; 'layer1' is Sequential"),
        ({"stages": []}, "name at least one stage"),
        ({"preactivations": ["act1"]}, "1 preactivations for 2 stages"),
        ({"preactivations": ["act1", "act2"]}, "no module 'act2'. Did you mean 'act1'"),
    ],
)
def test_names_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        staged(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ["layer1", "unused"]}, "Plain: the module 'unused' did not run in this pass"),
        ({"stages": ["layer1", "fc"]}, r"'fc' must give a map \[B, channels, H, W\], not \(2, 5\)"),
    ],
)
def test_modules_that_give_no_map(changes, message):
    with pytest.raises(ValueError, match=message):
        staged(**changes)(torch.randn(2, 3, 8, 8))


def test_what_a_staged_network_cannot_do_is_said():
    model, x = staged(), torch.randn(2, 3, 8, 8)
    with pytest.raises(
        ValueError, match=r"Plain goes on from the middle\. Subclass Staged and implement run_from\(x, st"
    ):
        model.forward_from(x, 1)
    model.keep_preactivations = True
    with pytest.raises(ValueError, match=r"Plain: no preactivations are named\. Staged\(\.\.\., preactivations="):
        model(x)


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_network_computes_what_torchvision_does(depth):
    model, x = with_learned_statistics(build(f"torchvision-resnet{depth}", n_classes=7)), torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        outputs = model(x)
        torch.testing.assert_close(outputs.logits, model.network(x))
        torch.testing.assert_close(outputs.logits, model.network.fc(outputs.embedding))


@pytest.fixture
def downloads(monkeypatch):
    """The weights that were asked for, in place of downloading them."""
    asked = []

    def load(self, *args, **kwargs):
        asked.append(str(self))
        torch.manual_seed(7)
        return build("torchvision-resnet18", n_classes=1000).network.state_dict()

    build("torchvision-resnet18")  # imports torchvision behind the shim
    monkeypatch.setattr("torchvision.models.WeightsEnum.get_state_dict", load)
    return asked


def test_published_weights_are_loaded_when_their_name_is_asked_for(downloads):
    fresh = build("torchvision-resnet18", n_classes=1000)
    skipped = build("torchvision-resnet18-imagenet1k", n_classes=10, published=False)
    assert downloads == [] and skipped.classifier.out_features == 10
    loaded = build("torchvision-resnet18-imagenet1k", n_classes=1000)
    assert downloads == ["ResNet18_Weights.IMAGENET1K_V1"]
    torch.manual_seed(7)
    expected = build("torchvision-resnet18", n_classes=1000).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    assert not torch.equal(fresh.classifier.weight, loaded.classifier.weight)


@pytest.mark.parametrize("sizes", [{"n_classes": 100}, {"n_classes": 1000, "in_channels": 1}])
def test_published_weights_fit_imagenet_only(sizes, downloads):
    with pytest.raises(
        ValueError, match=r"1000 classes and 3 channels, not for .*Without weights: 'torchvision-resnet18'"
    ):
        build("torchvision-resnet18-imagenet1k", **sizes)
    assert downloads == []


def test_every_depth_has_the_published_weights_that_the_papers_used():
    pytest.importorskip("torchvision")
    build("torchvision-resnet18")
    import torchvision.models

    for depth in torchvision_resnet.DEPTHS:
        assert torchvision_resnet.PUBLISHED in torchvision.models.get_model_weights(f"resnet{depth}").__members__
