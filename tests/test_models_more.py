"""Every family: sizes, preactivations, going on from a map, folding, precision, memory format."""

import pytest
import torch
from test_models import with_learned_statistics
from torch import nn
from torch.nn import functional as F

from kd_lib.models import build, fold_batchnorm
from kd_lib.models.layers import ConvBN, initialise
from kd_lib.models.resnet50 import Bottleneck
from kd_lib.models.shufflenet import UnitV1, UnitV2

PARAMETERS = {
    "resnet8x2": 320_260,
    "resnet50": 23_705_252,
    "shufflenetv1": 949_258,
    "shufflenetv2": 1_355_528,
    "wrn-16-3": 1_566_900,
    "wrn-16-4": 2_772_020,
    "wrn-16-5": 4_318_644,
    "wrn-16-6": 6_206_772,
    "torchvision-resnet18": 11_227_812,
}
"""100 classes, 3 channels. Of torchvision's: its own 11,689,512 at 1000 classes, less 900 rows of 513."""

EVERY_FAMILY = (
    *("resnet8-w4", "resnet14", "resnet8x2", "wrn-10-1", "wrn-16-2", "vgg8", "vgg13"),
    *("resnet50", "shufflenetv1", "shufflenetv2", "torchvision-resnet18", "torchvision-resnet50"),
)
SMALL = ("resnet14-w4", "wrn-16-1", "vgg8", "shufflenetv1", "shufflenetv2", "torchvision-resnet18")
GEOMETRY = {
    "resnet50": ((256, 512, 1024, 2048), (1, 2, 4, 8)),
    "shufflenetv1": ((240, 480, 960), (2, 4, 8)),
    "shufflenetv2": ((116, 232, 1024), (2, 4, 8)),
    "torchvision-resnet18": ((64, 128, 256, 512), (4, 8, 16, 32)),
    "torchvision-resnet50": ((256, 512, 1024, 2048), (4, 8, 16, 32)),
}
"""Channels of each stage and by how much its map is smaller than the image, rounded up."""


@pytest.fixture(scope="module")
def network():
    """Builds a family once for all tests; they must leave it in evaluation mode and its weights alone."""
    built = {}

    def get(name: str) -> nn.Module:
        if name not in built:
            torch.manual_seed(0)
            built[name] = with_learned_statistics(build(name, n_classes=5))
        return built[name]

    return get


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts(name, count):
    assert sum(p.numel() for p in build(name).parameters()) == count


@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize("shape", [(1, 12, 20), (3, 32, 32)])
def test_outputs_have_the_documented_shapes(name, shape):
    channels, height, width = shape
    model = build(name, n_classes=5, in_channels=channels).eval()
    with torch.no_grad():
        outputs = model(torch.randn(2, *shape))
    expected = [(2, c, -(-height // s), -(-width // s)) for c, s in zip(*GEOMETRY[name], strict=True)]
    assert [tuple(m.shape) for m in outputs.maps] == expected
    assert getattr(model, "stage_channels", GEOMETRY[name][0]) == GEOMETRY[name][0]
    assert outputs.logits.shape == (2, 5) and outputs.preactivations == ()
    torch.testing.assert_close(outputs.embedding, outputs.maps[-1].mean((2, 3)))
    torch.testing.assert_close(outputs.logits, model.classifier(outputs.embedding))


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_keeping_preactivations_changes_no_output(name, network):
    model, x = network(name), images(2, 3, 16, 16)
    with torch.no_grad():
        plain = model(x)
        model.keep_preactivations = True
        kept = model(x)
        model.keep_preactivations = False
    assert plain.preactivations == ()
    for a, b in zip((plain.logits, *plain.maps), (kept.logits, *kept.maps), strict=True):
        assert torch.equal(a, b)
    assert [z.shape for z in kept.preactivations] == [f.shape for f in kept.maps]
    for i, (z, f) in enumerate(zip(kept.preactivations, kept.maps, strict=True)):
        assert z.min() < 0, i
        if not name.startswith("wrn") or i == len(kept.maps) - 1:
            assert torch.equal(z.relu(), f), i


@pytest.mark.parametrize("training", [True, False])
def test_preactivation_of_a_wide_resnet_is_what_the_next_stage_activates(training):
    model = with_learned_statistics(build("wrn-16-1")).train(training)
    model.keep_preactivations = True
    heard = []
    for i in (1, 2):
        model.stages[i][0].first.register_forward_pre_hook(lambda _module, inputs: heard.append(inputs[0].clone()))
    counted = int(model.stages[1][0].bn.num_batches_tracked)
    outputs = model(images(4, 3, 8, 8))
    for z, a in zip(outputs.preactivations, heard, strict=False):
        assert torch.equal(z.relu(), a)
    assert int(model.stages[1][0].bn.num_batches_tracked) - counted == int(training)  # computed once


@pytest.mark.parametrize("name", SMALL)
def test_preactivations_carry_the_gradient(name):
    """A change of a preactivation reaches the logits: its gradient is that of the map, where the map is above zero."""
    model = build(name, n_classes=5)
    model.keep_preactivations = True
    outputs = model(images(4, 3, 32, 32))
    z, f = outputs.preactivations[-1], outputs.maps[-1]
    into_z, into_f = torch.autograd.grad(outputs.maps[-1].square().sum(), (z, f))
    torch.testing.assert_close(into_z, into_f * (z > 0))
    early = outputs.preactivations[0].float().square().mean()
    early.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("name", EVERY_FAMILY)
@pytest.mark.parametrize("keep", [False, True])
def test_forward_from_a_map_is_the_rest_of_the_pass(name, keep, network):
    model = network(name)
    model.keep_preactivations = keep
    with torch.no_grad():
        whole = model(images(2, 3, 16, 16))
        for i, f in enumerate(whole.maps):
            before = f.clone()
            rest = model.forward_from(f, i + 1)
            assert torch.equal(f, before), "the map was changed in place"
            assert len(rest.maps) == len(whole.maps) - i - 1
            assert len(rest.preactivations) == (len(rest.maps) if keep else 0)
            torch.testing.assert_close(rest.logits, whole.logits)
            torch.testing.assert_close(rest.embedding, whole.embedding)
            for a, b in zip(rest.maps, whole.maps[i + 1 :], strict=True):
                torch.testing.assert_close(a, b)
    model.keep_preactivations = False


@pytest.mark.parametrize("name", ["resnet14-w4", "wrn-16-1", "vgg8", "shufflenetv1", "shufflenetv2", "resnet50"])
def test_forward_from_the_stem_is_the_whole_pass(name):
    model, x = build(name).eval(), images(2, 3, 16, 16)
    with torch.no_grad():
        whole, again = model(x), model.forward_from(model.enter(x), 0)
    assert torch.equal(whole.logits, again.logits)
    assert all(torch.equal(a, b) for a, b in zip(whole.maps, again.maps, strict=True))


@pytest.mark.parametrize("name", ["resnet8-w4", "wrn-10-1", "shufflenetv2", "torchvision-resnet18"])
@pytest.mark.parametrize("stage", [-1, 5])
def test_forward_from_a_stage_that_does_not_exist(name, stage):
    with pytest.raises(ValueError, match=rf"no stage {stage} in a network of [34] stages\. Allowed: 0 .* to [34] "):
        build(name).forward_from(torch.randn(2, 4, 8, 8), stage)


@pytest.mark.parametrize("name", ["resnet50", "shufflenetv1", "shufflenetv2", *SMALL[-1:], "torchvision-resnet50"])
def test_folded_network_gives_the_same_outputs(name, network):
    model, x = network(name), images(4, 3, 32, 32)
    folded = fold_batchnorm(model)
    folded.keep_preactivations = model.keep_preactivations = True
    with torch.no_grad():
        plain, merged = model(x), folded(x)
    model.keep_preactivations = False
    for a, b in zip(
        (plain.logits, plain.embedding, *plain.maps, *plain.preactivations),
        (merged.logits, merged.embedding, *merged.maps, *merged.preactivations),
        strict=True,
    ):
        assert ((a - b).norm() / a.norm()).item() < 1e-4
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize("name", SMALL)
def test_autocast_leaves_embedding_and_logits_in_float32(name):
    model = build(name, n_classes=5)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images(2, 3, 32, 32))
    assert outputs.logits.dtype == outputs.embedding.dtype == torch.float32
    assert outputs.maps[0].dtype == torch.bfloat16
    expected = outputs.embedding @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(outputs.logits, expected)


@pytest.mark.parametrize("name", SMALL)
def test_memory_format_is_kept_and_changes_nothing(name, network):
    model, x = network(name), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        plain = model(x)
        other = model.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    for a, b in zip((plain.logits, *plain.maps), (other.logits, *other.maps), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in other.maps)


@pytest.mark.parametrize("name", ["shufflenetv1", "shufflenetv2", "torchvision-resnet18"])
def test_same_seed_same_weights(name):
    def weights(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [p for p in build(name, in_channels=1).parameters() if p.dim() == 4]

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", ["resnet50", "shufflenetv1", "shufflenetv2"])
def test_every_parameter_learns(name):
    model = build(name, n_classes=5, in_channels=1)
    F.cross_entropy(model(torch.randn(4, 1, 12, 20)).logits, torch.arange(4)).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []


def shuffled(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Output channel k is channel k // groups of group k % groups."""
    size = x.shape[1] // groups
    return torch.stack([x[:, (k % groups) * size + k // groups] for k in range(x.shape[1])], 1)


def test_first_shufflenets_unit_is_the_papers():
    x = torch.randn(2, 48, 7, 9).relu()
    same = with_learned_statistics(UnitV1(48, 48, halves=False))
    y = same.second(same.depthwise(shuffled(same.first(x).relu(), 3)))
    torch.testing.assert_close(same(x), (x + y).relu())
    assert [m.conv.groups for m in (same.first, same.depthwise, same.second)] == [3, 12, 3]
    half = with_learned_statistics(UnitV1(48, 96, halves=True))
    y = half.second(half.depthwise(shuffled(half.first(x).relu(), 3)))
    expected = torch.cat((F.avg_pool2d(x, 3, 2, 1), y), 1).relu()
    assert expected.shape == (2, 96, 4, 5)
    torch.testing.assert_close(half(x), expected)
    assert UnitV1(24, 240, halves=True).first.conv.groups == 1


def test_second_shufflenets_unit_is_the_papers():
    """Each branch ends in a ReLU of its own there; one after the concatenation is the same."""
    x = torch.randn(2, 8, 7, 9).relu()
    same = with_learned_statistics(UnitV2(8, 8, halves=False))
    mine = same.second(same.depthwise(same.first(x[:, 4:]).relu())).relu()
    torch.testing.assert_close(same(x), shuffled(torch.cat((x[:, :4], mine), 1), 2))
    half = with_learned_statistics(UnitV2(8, 20, halves=True))
    mine = half.second(half.depthwise(half.first(x).relu())).relu()
    other = half.other[1](half.other[0](x)).relu()
    assert mine.shape == other.shape == (2, 10, 4, 5)
    torch.testing.assert_close(half(x), shuffled(torch.cat((other, mine), 1), 2))


def test_bottleneck_is_post_activated_and_halves_in_its_middle():
    block = with_learned_statistics(Bottleneck(8, 4, stride=2))
    x = torch.randn(2, 8, 6, 6)
    y = block.third(block.second(block.first(x).relu()).relu())
    torch.testing.assert_close(block(x), (y + block.shortcut(x)).relu())
    assert block.first(x).shape == (2, 4, 6, 6) and block(x).shape == (2, 16, 3, 3)


@pytest.mark.parametrize("groups", [1, 4, 64])
def test_initialisation_counts_the_outputs_of_a_group(groups):
    """An input feeds 64 / groups channels through 9 weights each."""
    layer = ConvBN(64, 64, groups=groups)
    torch.manual_seed(0)
    initialise(layer)
    assert layer.conv.weight.std().item() == pytest.approx((2 * groups / (9 * 64)) ** 0.5, rel=0.05)


def test_resnet50_is_the_bottleneck_network():
    assert type(build("resnet50")).__name__ == "ResNet50"
    assert type(build("resnet50-w4")).__name__ == "ResNet"
