"""Networks: sizes, maps, precision, folding, and the errors for names that do not exist."""

import copy
import re

import pytest
import torch
from torch import nn

from kd_lib.models import EXAMPLES, MODELS, build, fold_batchnorm
from kd_lib.models.layers import ConvBN
from kd_lib.models.resnet import BasicBlock
from kd_lib.models.wrn import PreActivationBlock

PARAMETERS = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn-16-1": 180_916,
    "wrn-16-2": 703_284,
    "wrn-40-1": 569_780,
    "wrn-40-2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
}
"""METHODS section 6: 100 classes, 3 channels."""

ONE_OF_EACH = ("resnet8", "resnet8-w4", "resnet8x2", "wrn-10-1", "wrn-16-2", "vgg8", "vgg13")


def with_learned_statistics(model: nn.Module) -> nn.Module:
    """The model in eval mode, its batch norms as training would leave them: neither 0 nor 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts_are_the_published_ones(name, count):
    assert sum(p.numel() for p in build(name).parameters()) == count


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_built(name):
    assert build(name, n_classes=7, in_channels=1, published=False).classifier.out_features == 7


@pytest.mark.parametrize(
    ("name", "stem", "widths"),
    [
        ("resnet8", 16, (16, 32, 64)),
        ("resnet8-w4", 4, (4, 8, 16)),
        ("resnet20-w32", 32, (32, 64, 128)),
        ("resnet8x2", 32, (32, 64, 128)),
        ("resnet8x4", 32, (64, 128, 256)),
        ("wrn-10-2", 16, (32, 64, 128)),
    ],
)
def test_widths(name, stem, widths):
    model = build(name)
    assert model.stage_channels == widths
    assert next(m for m in model.modules() if isinstance(m, nn.Conv2d)).out_channels == stem


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("shape", [(1, 12, 20), (3, 32, 32)])
def test_outputs_have_the_documented_shapes(name, shape):
    channels, height, width = shape
    model = build(name, n_classes=5, in_channels=channels).eval()
    outputs = model(torch.randn(2, channels, height, width))
    halvings = (0, 1, 2, 3, 3) if name.startswith("vgg") else (0, 1, 2)
    expected = [(2, c, height >> h, width >> h) for c, h in zip(model.stage_channels, halvings, strict=True)]
    assert [tuple(m.shape) for m in outputs.maps] == expected
    assert outputs.embedding.shape == (2, model.stage_channels[-1])
    assert outputs.logits.shape == (2, 5)
    torch.testing.assert_close(outputs.embedding, outputs.maps[-1].mean((2, 3)))
    torch.testing.assert_close(outputs.logits, model.classifier(outputs.embedding))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_last_map_is_taken_after_its_activation(name):
    model = with_learned_statistics(build(name))
    maps = model(torch.randn(2, 3, 32, 32)).maps
    activated = [bool((m >= 0).all()) for m in maps]
    assert activated == ([False, False, True] if name.startswith("wrn") else [True] * len(maps))


def test_wide_block_is_pre_activated():
    block = with_learned_statistics(PreActivationBlock(4, 8, stride=2))
    x = torch.randn(2, 4, 6, 6)
    a = block.bn(x).relu()
    expected = block.second(block.first.bn(block.first.conv(a)).relu()) + block.shortcut(a)
    torch.testing.assert_close(block(x), expected)
    assert block(x).min() < 0
    same = with_learned_statistics(PreActivationBlock(4, 4, stride=1))
    torch.testing.assert_close(same(x) - x, same.second(same.first(same.bn(x).relu()).relu()))


def test_basic_block_is_post_activated():
    block = with_learned_statistics(BasicBlock(4, 8, stride=2))
    x = torch.randn(2, 4, 6, 6)
    expected = (block.second(block.first(x).relu()) + block.shortcut.bn(block.shortcut.conv(x))).relu()
    torch.testing.assert_close(block(x), expected)
    same = BasicBlock(4, 4, stride=1)
    assert list(same.shortcut.parameters()) == []


@pytest.mark.parametrize("name", ["resnet14-w4", "wrn-10-1", "wrn-16-2", "vgg13"])
@pytest.mark.parametrize("prepare", [with_learned_statistics, fold_batchnorm])
def test_later_stages_overwrite_no_map(name, prepare):
    """Activations are changed in place; what a stage handed out must not be."""
    model = prepare(build(name))
    handed_out = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _module, _inputs, output: handed_out.append(output.clone()))
    maps = model(torch.randn(2, 3, 16, 16)).maps
    for i in range(len(maps) - name.startswith("wrn")):
        assert torch.equal(maps[i], handed_out[i]), i


@pytest.mark.parametrize("name", ["resnet8-w4", "wrn-10-1", "vgg8"])
def test_autocast_leaves_embedding_and_logits_in_float32(name):
    model = build(name, n_classes=5)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(torch.randn(2, 3, 32, 32))
    assert outputs.logits.dtype == outputs.embedding.dtype == torch.float32
    assert all(m.dtype == torch.bfloat16 for m in outputs.maps[:-1])
    expected = outputs.embedding @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(outputs.logits, expected)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_parameter_learns(name):
    model = build(name, n_classes=5, in_channels=1)
    nn.functional.cross_entropy(model(torch.randn(4, 1, 12, 20)).logits, torch.arange(4)).backward()
    # The batch norm's mean takes away what the bias before it adds, so that bias has a gradient of zero.
    absorbed = {id(m.conv.bias) for m in model.modules() if isinstance(m, ConvBN)}
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert id(parameter) in absorbed or parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", ["resnet8-w4", "wrn-10-1"])
def test_in_place_operations_change_no_gradient(name):
    """Finite differences in float64 along the gradient: an overwritten activation would show."""
    torch.manual_seed(0)
    model, x = build(name, n_classes=5).double(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    model.classifier.float()
    weight = next(m for m in model.modules() if isinstance(m, nn.Conv2d)).weight
    target = torch.randn(4, model.stage_channels[-1], dtype=torch.float64)

    def loss() -> torch.Tensor:
        maps = model(x).maps
        return (maps[-1].mean((2, 3)) * target).sum() + sum(m.square().mean() for m in maps)

    gradient = torch.autograd.grad(loss(), weight)[0]
    step = 1e-6 * gradient / gradient.norm()
    with torch.no_grad():
        weight += step
        above = loss()
        weight -= 2 * step
        below = loss()
    assert ((above - below) / 2e-6).item() == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_same_seed_same_weights():
    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return build("resnet8-w4").state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["stem.conv.weight"], other["stem.conv.weight"])


def test_initialisation_is_kaiming_fan_out():
    conv = build("vgg8").stages[3][0].conv  # 256 to 512 channels: fan-in differs
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert conv.bias.abs().sum() == 0


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_folded_network_gives_the_same_outputs(name):
    torch.manual_seed(0)
    model, x = with_learned_statistics(build(name)), torch.randn(4, 3, 32, 32)
    folded = fold_batchnorm(model)
    with torch.no_grad():
        plain, merged = model(x), folded(x)
    for a, b in zip(
        (plain.logits, plain.embedding, *plain.maps), (merged.logits, merged.embedding, *merged.maps), strict=True
    ):
        assert ((a - b).norm() / a.norm()).item() < 1e-4
    left = sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    blocks = 3 * (int(name.split("-")[1]) - 4) // 6 if name.startswith("wrn") else 0
    assert left == (blocks + 1 if blocks else 0)


def test_folding_leaves_the_original_alone():
    model = with_learned_statistics(build("resnet8-w4")).train()
    before = copy.deepcopy(model.state_dict())
    folded = fold_batchnorm(model)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not folded.training and not any(p.requires_grad for p in folded.parameters())
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(fold_batchnorm(folded)(x).logits, folded(x).logits)


def test_unknown_name_gives_the_nearest():
    with pytest.raises(ValueError, match=r"unknown network: 'resnet_20'\. Did you mean 'resnet20'"):
        build("resnet_20")
    with pytest.raises(ValueError, match="unknown network: 'resnet020'"):
        build("resnet020")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "'resnet18': the depth must be 6n + 2 with n >= 1. Nearest: resnet14 and resnet20."),
        ("resnet2", "'resnet2': the depth must be 6n + 2 with n >= 1. Nearest: resnet8."),
        ("resnet9x4", "'resnet9x4': the depth must be 6n + 2 with n >= 1. Nearest: resnet8x4 and resnet14x4."),
        ("resnet21-w16", "Nearest: resnet20-w16 and resnet26-w16."),
        ("wrn-20-2", "'wrn-20-2': the depth must be 6n + 4 with n >= 1. Nearest: wrn-16-2 and wrn-22-2."),
        ("vgg16", "unknown network: 'vgg16'. Did you mean 'vgg13'? Allowed: vgg8, vgg13."),
    ],
)
def test_impossible_depth_gives_its_neighbours(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(name)


def test_image_too_small_for_a_vgg():
    with pytest.raises(ValueError, match="7x20 are too small for a VGG: at least 8 pixels"):
        build("vgg8")(torch.randn(1, 3, 7, 20))


def test_every_pattern_has_an_example():
    for pattern in MODELS:
        regex = re.sub(r"\{\w+\}", r"\\d+", pattern)
        assert any(re.fullmatch(regex, name) for name in EXAMPLES), pattern
