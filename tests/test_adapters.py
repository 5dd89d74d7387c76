"""LoRA and the scaled parallel adapter: alone, and on a frozen teacher beside the Houlsby adapter."""

import pytest
import torch
from tiny import student as tiny_student
from torch.nn import functional as F

from kd_lib import models
from kd_lib.adapters import Houlsby, LoRA, ScaledParallel
from kd_lib.methods import KD
from kd_lib.shapes import Batch, Outputs
from kd_lib.teachers import Adapter

B, C = 6, 10
BESIDE = {"lora": LoRA, "parallel": ScaledParallel}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return models.build("resnet8-w2", n_classes=C, in_channels=1).eval()


@pytest.fixture
def frozen(network):
    with torch.no_grad():
        return network(torch.randn(B, 1, 12, 20, generator=torch.Generator().manual_seed(1)))


def moved(policy):
    """The policy after its adapter has left zero."""
    torch.nn.init.normal_(policy.adapter.up.weight, generator=torch.Generator().manual_seed(3))
    return policy


@pytest.mark.parametrize(("kind", "expected"), [("lora", [[-9.0, -1.5]]), ("parallel", [[0.0, 0.0]])])
def test_one_unit_by_hand(kind, expected):
    adapter = BESIDE[kind](2, 2, rank=1, **({"alpha": 0.5} if kind == "lora" else {}))
    with torch.no_grad():
        adapter.down.weight.copy_(torch.tensor([[1.0, -2.0]]))
        adapter.up.weight.copy_(torch.tensor([[3.0], [0.5]]))
    # h W_down = -6: LoRA is linear, 0.5 / 1 * -6 * (3, 0.5); the parallel adapter's ReLU cuts it
    assert adapter(torch.tensor([[0.0, 3.0]])).tolist() == expected
    # h W_down = 2
    up = {"lora": [[3.0, 0.5]], "parallel": [[24.0, 4.0]]}[kind]  # 0.5 * 2 and s * 2 = 8 times (3, 0.5)
    assert adapter(torch.tensor([[4.0, 1.0]])).tolist() == up


@pytest.mark.parametrize("kind", BESIDE)
def test_an_adapter_beside_a_layer_starts_as_no_change(kind):
    adapter = BESIDE[kind](7, 5, rank=3)
    out = adapter(torch.randn(4, 7))
    assert out.shape == (4, 5) and not out.any()
    out.sum().backward()
    assert adapter.up.weight.grad.any()  # it can leave zero
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        BESIDE[kind](7, 5, rank=0)


def test_lora_divides_by_its_rank():
    torch.manual_seed(0)
    adapter = LoRA(7, 5, rank=4, alpha=6.0)
    torch.nn.init.normal_(adapter.up.weight)
    h, down, up = torch.randn(3, 7), adapter.down.weight.detach(), adapter.up.weight.detach()
    expected = [[1.5 * sum((h[b] @ down[r] * up[o, r]).item() for r in range(4)) for o in range(5)] for b in range(3)]
    torch.testing.assert_close(adapter(h), torch.tensor(expected))
    assert LoRA(7, 5).scale == 1.0 and ScaledParallel(7, 5).scale == 4.0


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_it_moves_and_the_teacher_does_not(network, frozen, kind, variant):
    y = torch.arange(B)
    policy = Adapter(network, kind=kind, where="embedding", variant=variant, rank=3)
    torch.testing.assert_close(policy.outputs(frozen).logits, frozen.logits, rtol=0, atol=0)
    z_s = torch.randn(B, C, requires_grad=True)
    student, teacher = Outputs(z_s, torch.randn(B, 8)), moved(policy).outputs(frozen)
    terms = KD()(student, policy.target(teacher, y), Batch(None, None, y), 0.0)
    sum({**terms, **policy.terms(student, teacher, y)}.values()).backward()
    assert {name for name, _ in policy.named_parameters()} == {"adapter.down.weight", "adapter.up.weight"}
    assert all(p.grad.any() for p in policy.parameters())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_the_students_loss_reaches_it_in_v1_only(network, frozen, variant):
    y = torch.arange(B)
    policy = moved(Adapter(network, kind="lora", where="embedding", variant=variant, rank=3))
    target = policy.target(policy.outputs(frozen), y)
    assert target.logits.requires_grad == (variant == "v1")


def test_lora_is_the_classifier_with_other_weights(network, frozen):
    policy = moved(Adapter(network, kind="lora", where="embedding", rank=3))
    update = policy.adapter.scale * policy.adapter.up.weight @ policy.adapter.down.weight
    merged = F.linear(frozen.embedding, network.classifier.weight + update, network.classifier.bias)
    adapted = policy.outputs(frozen)
    torch.testing.assert_close(adapted.logits, merged)
    assert not torch.allclose(adapted.logits, frozen.logits)
    assert adapted.embedding is frozen.embedding  # the classifier's output changes, not its input


def test_the_parallel_adapter_adds_to_the_logits(network, frozen):
    policy = moved(Adapter(network, kind="parallel", where="embedding", rank=3))
    hidden = (frozen.embedding @ policy.adapter.down.weight.T).clamp_min(0)
    torch.testing.assert_close(policy.outputs(frozen).logits, frozen.logits + 4 * hidden @ policy.adapter.up.weight.T)


def test_sizes(network):
    d = network.classifier.in_features
    count = {
        (kind, where): sum(p.numel() for p in Adapter(network, kind=kind, where=where, rank=32).parameters())
        for kind, where in (
            ("houlsby", "logits"),
            ("houlsby", "embedding"),
            ("lora", "embedding"),
            ("parallel", "embedding"),
        )
    }
    assert list(count.values()) == [64 * C, 64 * d, 32 * (d + C), 32 * (d + C)]


@pytest.mark.parametrize("kind", BESIDE)
def test_beside_the_classifier_there_are_no_logits_to_read(network, kind):
    with pytest.raises(
        ValueError, match=f"'{kind}' reads the classifier's input: it needs where='embedding', got 'logits'"
    ):
        Adapter(network, kind=kind)


def test_an_unknown_kind_is_named_with_the_nearest(network):
    with pytest.raises(ValueError, match=r"unknown kind of adapter: 'loar'. Did you mean 'lora'\?"):
        Adapter(network, kind="loar", where="embedding")


def test_runs_from_before_there_were_kinds_keep_their_keys():
    assert tiny_student("pesf_kd").key == tiny_student("pesf_kd", settings={"kind": "houlsby"}).key
    assert "kind" not in str(tiny_student("pesf_kd")._canonical())
    keys = {tiny_student(method).key for method in ("pesf_kd", "pesf_kd_lora", "pesf_kd_parallel")}
    assert len(keys) == 3


def test_the_presets_put_the_right_adapter_on_the_teacher(network):
    for method, kind in (("pesf_kd", Houlsby), ("pesf_kd_lora", LoRA), ("pesf_kd_parallel", ScaledParallel)):
        run = tiny_student(method)
        policy = run.policy_type(network, **run.policy_settings)
        assert type(policy.adapter) is kind
        assert policy.variant == "v2" and policy.label_adjustment
