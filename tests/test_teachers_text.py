"""Policies on texts: who moves, what adapters between layers do, and that no teacher drops what it should not."""

import pytest
import torch
import toy_texts
from tiny import TEXT_TEACHER, student, text_student
from torch import nn
from torch.nn import functional as F
from toy_texts import ONE_EPOCH, batch, first_batch, network, opened

from kd_lib import losses, plan, runs
from kd_lib.runs import ensure
from kd_lib.teachers import Adapter, LayerAdapter
from kd_lib.train import loss_terms, setup_terms

store = toy_texts.store  # for every test of this file


@pytest.mark.parametrize("method", ["pkd", "tinybert"])
def test_with_pesf_kd_an_adapter_on_the_logits_learns_beside_it(method):
    settings = {
        "tau": 2.0,
        "rank": 3,
        "teacher_ce_weight": 0.25,
        **(ONE_EPOCH if method == "tinybert" else {}),
    }
    made = opened(method, policy="adapter", settings=settings)
    assert isinstance(made.teacher, Adapter) and made.teacher.adapter.down.weight.shape == (3, 20)
    assert made.method.tau == made.teacher.tau == 2.0 and made.teacher.teacher_ce_weight == 0.25
    with torch.no_grad():
        made.teacher.adapter.up.weight.normal_()
    seen = first_batch(made)
    _, terms = loss_terms(made, seen, progress=0.0)
    frozen = made.frozen(seen)
    adapted = made.teacher.adapter(frozen.logits)
    made.student.eval()
    student, still = loss_terms(made, seen, progress=0.0)
    torch.testing.assert_close(still["kd"], made.method.kd_weight * losses.kd(student.logits, adapted, tau=2.0))
    assert {"teacher_ce", "teacher_kl", "kd"} <= terms.keys()
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in made.teacher.parameters())


@pytest.mark.parametrize("method", ["kd", "pkd", "tinybert"])
@pytest.mark.parametrize("policy", ["frozen", "adapter", "layer_adapter"])
def test_no_dropout_in_a_teacher_that_should_not_have_it(method, policy):
    """The student's differs from pass to pass, the teacher's never; in the setup phase as well."""
    made = opened(method, policy=policy, settings=ONE_EPOCH if method == "tinybert" else {})
    seen = first_batch(made)
    assert any(m.p for m in network_of(made).modules() if isinstance(m, nn.Dropout))
    made.parts.train()
    if method == "tinybert":
        setup_terms(made, seen, progress=0.0)
        made.parts.train()

    def taught():
        if made.frozen is None:
            return made.teacher(seen.x)
        return made.teacher.outputs(made.frozen(seen))

    with torch.no_grad():
        first, second = taught(), taught()
        assert torch.equal(first.logits, second.logits)
        assert all(torch.equal(a, b) for a, b in zip(first.attentions, second.attentions, strict=True))
        assert not torch.equal(made.student(seen.x).logits, made.student(seen.x).logits)
    drops = [m for m in network_of(made).modules() if isinstance(m, nn.Dropout) or hasattr(m, "num_attention_heads")]
    assert drops and not any(module.training for module in drops)


def network_of(made):
    return made.teacher.network if made.frozen is None else made.frozen.network


def test_a_fine_tuned_teacher_has_its_dropout():
    made = opened("ft_kd")
    made.parts.train()
    x = first_batch(made).x
    assert not torch.equal(made.teacher(x).logits, made.teacher(x).logits)


def test_students_that_need_scores_do_not_share_a_teacher_with_those_that_do_not():
    """Side by side a student must end with the bits it has alone; on a GPU attention with its scores rounds in another way."""
    net = ensure(TEXT_TEACHER, device="cpu").network()
    x = next(ensure(TEXT_TEACHER, device="cpu").data.inputs("train", 40))
    plain = net(x).maps
    net.keep_attentions = True
    assert all(torch.equal(a, b) for a, b in zip(plain, net(x).maps, strict=True)), "on a CPU it is the same arithmetic"
    shares = [plan._shares(text_student(name, settings=s)) for name, s in (("pkd", {}), ("pkd", {"layers": "last"}))]
    assert shares[0] == shares[1] != plan._shares(text_student("tinybert", settings=ONE_EPOCH))


def test_a_frozen_transformer_gives_what_it_is_asked_for():
    """Attention scores and states for TinyBERT, and neither where only logits are read."""
    made = opened("tinybert", settings=ONE_EPOCH)
    out = made.frozen(first_batch(made))
    assert len(out.maps) == 5 and len(out.attentions) == 4 and made.student.keep_attentions
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in (*out.maps, *out.attentions, out.logits))
    made = opened("kd")
    assert made.frozen.memory is not None and not made.student.keep_attentions


def test_layer_adapters_by_hand():
    """LayerNorm(x + a(W h + b)) after both sublayers; a(u) = u + relu(u W_down) W_up."""
    net = network("bert-l1-d8", 3).double()
    policy = LayerAdapter(net, rank=3).double()
    adapters, layer = policy.adapters, net.stages[0]
    assert [(a.down.weight.shape, a.up.weight.shape) for a in adapters] == [((3, 8), (8, 3))] * 2
    for adapter in adapters:
        nn.init.normal_(adapter.up.weight)
    h, x = torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 5, 8, dtype=torch.float64)
    inner = torch.randn(2, 5, 32, dtype=torch.float64)
    for part, adapter, read in ((layer.attention.output, adapters[0], h), (layer.output, adapters[1], inner)):
        dense = part.dense[0]
        u = read @ dense.weight.T + dense.bias
        a = u + torch.relu(u @ adapter.down.weight.T) @ adapter.up.weight.T
        expected = F.layer_norm(x + a, (8,), part.LayerNorm.weight, part.LayerNorm.bias, 1e-12)
        torch.testing.assert_close(part(read, x), expected)


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_layer_adapters_start_unchanged_and_move_nothing_else(variant):
    plain, net = network("bert-l2-d8-p10", 3).eval(), network("bert-l2-d8-p10", 3)
    policy = LayerAdapter(net, variant=variant, rank=2)
    seen = batch()
    assert torch.equal(policy(seen.x).logits, plain(seen.x).logits)
    assert policy.backbone_moves and {name.split(".")[0] for name in policy.state_dict()} == {"adapters"}
    backbone = {name: value.clone() for name, value in net.state_dict().items() if ".dense.1." not in name}
    with torch.no_grad():
        for adapter in policy.adapters:
            adapter.up.weight.normal_(std=0.1)
    z = network("bert-l2-d8", 5)(seen.x)
    teacher = policy.outputs(policy.train()(seen.x))
    target = policy.target(teacher, seen.y)
    live = [target.logits, target.embedding, *target.maps[1:], *target.attentions[1:]]
    assert all(tensor.requires_grad == (variant == "v1") for tensor in live)
    assert policy.terms(z, teacher, seen.y).keys() == {"teacher_ce"} | ({"teacher_kl"} if variant == "v2" else set())
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.1)
    sum(policy.terms(z, teacher, seen.y).values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in policy.parameters())
    optimiser.step()
    after = net.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in backbone.items())
    assert not torch.equal(policy(seen.x).logits, teacher.logits)


def test_layer_adapters_adjust_labels():
    net, seen = network("bert-l2-d8", 3), batch()
    policy = LayerAdapter(net, label_adjustment=True)
    out = policy(seen.x)
    wrong = (out.logits.argmax(1) + 1) % 4
    assert (policy.target(out, wrong).logits.argmax(1) == wrong).all()


def test_layer_adapters_need_a_transformer():
    with pytest.raises(ValueError, match="'layer_adapter' needs a transformer as teacher, not ResNet"):
        runs._open(student("pesf_kd_layers"), "cpu")
