"""Who moves: gradients reach what should move and nothing else."""

import pytest
import torch
from torch.nn import functional as F

from kd_lib import losses, models
from kd_lib.adapters import Houlsby
from kd_lib.methods import KD
from kd_lib.shapes import Batch, Outputs
from kd_lib.teachers import POLICIES, Adapter, FineTune, Frozen

B, C = 6, 10


@pytest.fixture
def network():
    torch.manual_seed(0)
    return models.build("resnet8-w2", n_classes=C, in_channels=1)


@pytest.fixture
def x():
    return torch.randn(B, 1, 12, 20, generator=torch.Generator().manual_seed(1))


def student_outputs():
    z = torch.randn(B, C, generator=torch.Generator().manual_seed(2)).requires_grad_()
    return Outputs(z, torch.randn(B, 8))


def all_terms(policy, frozen, student, y):
    teacher = policy.outputs(frozen)
    return {**KD()(student, policy.target(teacher, y), Batch(None, None, y), 0.0), **policy.terms(student, teacher, y)}


def test_houlsby_by_hand():
    adapter = Houlsby(2, rank=1)
    with torch.no_grad():
        adapter.down.weight.copy_(torch.tensor([[1.0, -2.0]]))
        adapter.up.weight.copy_(torch.tensor([[3.0], [0.5]]))
    # h W_down = 4 - 2 = 2, relu 2, W_up gives (6, 1)
    assert adapter(torch.tensor([[4.0, 1.0]])).tolist() == [[10.0, 2.0]]
    # h W_down = -6, relu 0
    assert adapter(torch.tensor([[0.0, 3.0]])).tolist() == [[0.0, 3.0]]
    with pytest.raises(ValueError, match="rank"):
        Houlsby(2, rank=0)


@pytest.mark.parametrize("where", ["logits", "embedding"])
@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_an_adapter_starts_as_the_unchanged_teacher(network, x, where, variant):
    frozen = network.eval()(x)
    adapted = Adapter(network, where=where, variant=variant).outputs(frozen)
    torch.testing.assert_close(adapted.logits, frozen.logits)


@pytest.mark.parametrize("where", ["logits", "embedding"])
@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_an_adapter_moves_and_the_teacher_does_not(network, x, where, variant):
    y = torch.arange(B) % C
    with torch.no_grad():
        frozen = network.eval()(x)
    policy = Adapter(network, where=where, variant=variant, rank=3)
    student = student_outputs()
    sum(all_terms(policy, frozen, student, y).values()).backward()
    assert student.logits.grad.abs().sum() > 0
    assert policy.adapter.up.weight.grad.abs().sum() > 0
    assert {name for name, _ in policy.named_parameters()} == {"adapter.down.weight", "adapter.up.weight"}
    assert all(p.grad is None for p in network.parameters())


def test_v2_cuts_both_ways_and_v1_neither(network, x):
    """v2: the student's loss does not move the adapter, the adapter's does not move the student. v1: the KL moves both."""
    y = torch.arange(B) % C
    with torch.no_grad():
        frozen = network.eval()(x)
    for variant, moved in (("v1", True), ("v2", False)):
        policy = Adapter(network, variant=variant, rank=3)
        student = student_outputs()
        teacher = policy.outputs(frozen)
        sum(KD()(student, policy.target(teacher, y), Batch(None, None, y), 0.0).values()).backward()
        assert (policy.adapter.up.weight.grad is not None) == moved
        student.logits.grad = None
        sum(policy.terms(student, policy.outputs(frozen), y).values()).backward()
        assert student.logits.grad is None


def test_adapter_terms_by_formula(network, x):
    y = torch.arange(B) % C
    with torch.no_grad():
        frozen = network.eval()(x)
    student, ce = student_outputs(), F.cross_entropy(frozen.logits, y)
    p_s, p_t = (F.softmax(z / 3, 1) for z in (student.logits, frozen.logits))
    kl = 9 * (p_s * (p_s / p_t).log()).sum(1).mean()
    v1 = Adapter(network, variant="v1").terms(student, frozen, y)
    v2 = Adapter(network, variant="v2", tau=3.0, kd_weight=0.7, ce_weight=0.2).terms(student, frozen, y)
    appendix = Adapter(network, variant="v2", teacher_ce_weight=0.5).terms(student, frozen, y)
    torch.testing.assert_close(v1, {"teacher_ce": 0.5 * ce})
    torch.testing.assert_close(v2, {"teacher_ce": 0.2 * ce, "teacher_kl": 0.7 * kl})
    torch.testing.assert_close(appendix["teacher_ce"], 0.5 * ce)


def test_the_student_sees_adjusted_labels_and_the_adapter_its_own(network, x):
    with torch.no_grad():
        frozen = network.eval()(x)
    y = (frozen.logits.argmax(1) + 1) % C  # the teacher is wrong everywhere
    for name, policy in POLICIES.items():
        if policy.from_scratch or name == "layer_adapter":
            continue  # nobody to adjust: see test_mutual.py; only for transformers: see test_teachers_text.py
        one = policy(network, label_adjustment=True)
        assert (one.target(one.outputs(frozen), y).logits.argmax(1) == y).all(), name
        assert (one.outputs(frozen).logits.argmax(1) != y).all(), name
        plain = policy(network)
        torch.testing.assert_close(plain.target(frozen, y).logits, frozen.logits)
    with_terms = Adapter(network, label_adjustment=True).terms(student_outputs(), frozen, y)
    torch.testing.assert_close(with_terms["teacher_ce"], 0.1 * F.cross_entropy(frozen.logits, y))


def test_fine_tuning_lets_the_kl_reach_every_weight_of_the_teacher(network, x):
    """FT-KD's KL is not detached: without the teacher's own cross-entropy, gradients still arrive at all its weights."""
    y = torch.arange(B) % C
    policy = FineTune(network.train(), teacher_ce_weight=0.0, label_adjustment=True)
    sum(all_terms(policy, policy.network(x), student_outputs(), y).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())
    assert len(list(policy.parameters())) == len(list(network.parameters()))
    terms = FineTune(network).terms(student_outputs(), network(x), y)
    assert list(terms) == ["teacher_ce"]  # no student-to-teacher KL


def test_a_frozen_teacher_has_nothing_to_train(network, x):
    policy = Frozen(network)
    assert list(policy.parameters()) == []
    assert policy.terms(student_outputs(), network(x), torch.zeros(B, dtype=torch.long)) == {}
    assert policy.lr == 0.0


def test_adapter_settings_that_cannot_be(network):
    with pytest.raises(ValueError, match="rank"):
        Adapter(network, rank=0)


def test_label_adjustment_in_the_students_loss_is_the_adjusted_kl(network, x):
    with torch.no_grad():
        frozen = network.eval()(x)
    y = (frozen.logits.argmax(1) + 1) % C
    student = student_outputs()
    terms = all_terms(Frozen(network, label_adjustment=True), frozen, student, y)
    expected = 0.9 * losses.kd(student.logits, losses.label_adjustment(frozen.logits, y), tau=4.0)
    torch.testing.assert_close(terms["kd"], expected)
