"""PKD and TinyBERT: which layers meet, what they match, and what they refuse."""

import math

import pytest
import torch
import toy_texts
from tiny import student
from torch.nn import functional as F
from toy_texts import LENGTHS, B, batch, network

from kd_lib import losses, runs
from kd_lib.methods import PKD, TinyBERT
from kd_lib.methods.connect import pair_layers
from kd_lib.shapes import Outputs, Pair

store = toy_texts.store  # for every test of this file


def pair_of(student, teacher, **changes):
    with torch.no_grad():
        outs = [network(name, seed).eval()(batch().x) for seed, name in enumerate((student, teacher))]
    return Pair((student, teacher), *outs, n_train=B, image_size=(), **changes)


def layers_only(n_s, n_t):
    """A pair of which nothing but the number of layers is known."""
    outs = [Outputs(torch.zeros(1, 1), torch.zeros(1, 1), (torch.zeros(1, 1, 1),) * (n + 1)) for n in (n_s, n_t)]
    return Pair(("small", "large"), *outs, n_train=1, image_size=())


@pytest.mark.parametrize(
    ("n_s", "n_t", "rule", "expected"),
    [
        (6, 12, "skip", [2, 4, 6, 8, 10, 12]),
        (6, 12, "last", [7, 8, 9, 10, 11, 12]),
        (4, 12, "skip", [3, 6, 9, 12]),
        (3, 12, "skip", [4, 8, 12]),
        (3, 4, "skip", [1, 2, 4]),
        (2, 2, "skip", [1, 2]),
        (2, 2, "last", [1, 2]),
    ],
)
def test_which_layers_meet(n_s, n_t, rule, expected):
    assert pair_layers(layers_only(n_s, n_t), rule) == list(enumerate(expected, 1))


def test_a_student_deeper_than_its_teacher():
    with pytest.raises(ValueError, match=r"student small, teacher large: the student has 3 layers, more than .* 2"):
        pair_layers(layers_only(3, 2), "skip")


def test_pkd_matches_first_tokens_of_all_layers_but_the_last():
    pair = pair_of("bert-l3-d8", "bert-l6-d8")
    for rule, layers in (("skip", [(1, 2), (2, 4)]), ("last", [(1, 4), (2, 5)])):
        method = PKD(layers=rule, tau=2.0)
        method.connect(pair)
        assert method.pairs == layers
        terms = method(pair.student, pair.teacher, batch(), 0.0)
        total = 0.0
        for i, j in layers:
            for s, t in zip(pair.student.maps[i][:, 0].tolist(), pair.teacher.maps[j][:, 0].tolist(), strict=True):
                s_length, t_length = math.hypot(*s), math.hypot(*t)
                total += sum((x / s_length - y / t_length) ** 2 for x, y in zip(s, t, strict=True))
        assert terms["match"].item() == pytest.approx(100 * total / (B * len(layers) * 8), rel=1e-5)
        z_s, z_t = pair.student.logits, pair.teacher.logits
        torch.testing.assert_close(terms["kd"], 0.5 * losses.kd(z_s, z_t, tau=2.0))
        torch.testing.assert_close(terms["ce"], 0.5 * F.cross_entropy(z_s, batch().y))


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (
            "bert-l1-d8",
            "bert-l4-d8",
            "student bert-l1-d8, teacher bert-l4-d8: .* 8 and 8 features, and the student 1 l",
        ),
        ("bert-l2-d8", "bert-l4-d16", "states of one width, .* they have 8 and 16 features"),
    ],
)
def test_pairs_that_pkd_cannot_compare(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        PKD().connect(pair_of(student, teacher))


def slow_tinybert(method, student, teacher):
    """Every real token, every score between real tokens, text by text."""
    totals = {"embedding": 0.0, "hidden": 0.0, "attention": 0.0}
    for b, length in enumerate(LENGTHS):

        def distance(h_s, h_t, w, b=b, length=length):
            squares = [
                ((w[:, :] @ h_s[b, k])[d].item() - h_t[b, k, d].item()) ** 2
                for k in range(length)
                for d in range(h_t.shape[2])
            ]
            return sum(squares) / len(squares) / B

        w_e, w_h = method.of_embeddings.weight.detach(), method.of_states.weight.detach()
        totals["embedding"] += distance(student.maps[0], teacher.maps[0], w_e)
        for i, j in method.pairs:
            totals["hidden"] += distance(student.maps[i], teacher.maps[j], w_h)
            a_s, a_t = student.attentions[i - 1][b], teacher.attentions[j - 1][b]
            errors = (a_s - a_t)[:, :length, :length].square()
            totals["attention"] += sum(errors.flatten().tolist()) / errors.numel() / B
    return totals


def test_tinybert_matches_layers_first():
    pair = pair_of("bert-l2-d8", "bert-l4-d16")
    method = TinyBERT()
    torch.manual_seed(1)
    method.connect(pair)
    assert method.pairs == [(1, 2), (2, 4)]
    assert [p.shape for p in method.parameters()] == [(16, 8), (16, 8)]  # W_e and W_h, one for all layers, no biases
    terms = method.setup(pair.student, pair.teacher, batch())
    expected = slow_tinybert(method, pair.student, pair.teacher)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name


def test_tinybert_then_predicts():
    """No labels, temperature 1, unless asked for."""
    pair = pair_of("bert-l2-d8", "bert-l4-d16")
    z_s, z_t = pair.student.logits, pair.teacher.logits
    terms = TinyBERT()(pair.student, pair.teacher, batch(), 0.0)
    assert terms.keys() == {"kd"}
    torch.testing.assert_close(terms["kd"], losses.kd(z_s, z_t, tau=1.0))
    both = TinyBERT(ce_weight=0.3, kd_weight=0.7, tau=2.0)(pair.student, pair.teacher, batch(), 0.0)
    torch.testing.assert_close(both["kd"], 0.7 * losses.kd(z_s, z_t, tau=2.0))
    torch.testing.assert_close(both["ce"], 0.3 * F.cross_entropy(z_s, batch().y))
    assert TinyBERT(tau=2.0).temperatures(z_s, z_t) == (2.0, 2.0)


def test_tinybert_needs_as_many_heads():
    with pytest.raises(ValueError, match="attention head by head, and they have 2 and 4 heads"):
        TinyBERT().connect(pair_of("bert-l2-d8", "bert-l2-d8-h4"))


@pytest.mark.parametrize("method", [PKD(), TinyBERT()])
def test_padding_a_batch_further_changes_no_term_and_no_gradient(method):
    nets = [network("bert-l2-d8", 0).eval(), network("bert-l4-d8", 1).eval()]
    torch.manual_seed(2)
    method.connect(pair_of("bert-l2-d8", "bert-l4-d8"))
    found = []
    for pad in (0, 4):
        seen = batch(pad=pad)
        outs = [net(seen.x) for net in nets]
        terms = method(*outs, seen, 0.0) | (method.setup(*outs, seen) if isinstance(method, TinyBERT) else {})
        weights = [*nets[0].parameters(), *nets[1].parameters(), *method.parameters()]
        found.append((terms, torch.autograd.grad(sum(terms.values()), weights, allow_unused=True)))
    (near, grads), (far, far_grads) = found
    for name in near:
        torch.testing.assert_close(near[name], far[name])
    for a, b in zip(grads, far_grads, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["pkd", "tinybert"])
def test_methods_that_compare_transformers_refuse_images(method):
    with pytest.raises(ValueError, match=r"student resnet8-w2, teacher resnet8-w4: .*layers of transformers"):
        runs._open(student(method), "cpu")
