"""Methods and policies on texts: what they match, who moves, and that no teacher drops what it should not."""

import math

import numpy as np
import pytest
import torch
from tiny import TEACHER, TEXT, TEXT_TEACHER, student, text_student
from torch import nn
from torch.nn import functional as F

from kd_lib import losses, models, plan, runs
from kd_lib.config import ConfigError, Run
from kd_lib.data.text import text_data
from kd_lib.methods import METHODS, PKD, TinyBERT
from kd_lib.methods.connect import pair_layers
from kd_lib.methods.sftn import States
from kd_lib.runs import ensure
from kd_lib.session import start
from kd_lib.shapes import Batch, Outputs, Pair
from kd_lib.teachers import Adapter, LayerAdapter
from kd_lib.train import loss_terms, predict, setup_terms, train

TOKENS = {"n_classes": 4, "vocabulary": 30, "pad": 0, "separator": 3, "max_length": 12}
B, LENGTHS = 4, (7, 3, 5, 7)
CPU = torch.device("cpu")
ONE_EPOCH = {"setup_epochs": 1}


def batch(seed=0, pad=0):
    """Four texts of 7, 3, 5 and 7 tokens."""
    x = torch.randint(4, 30, (B, 7), generator=torch.Generator().manual_seed(seed))
    x = x * (torch.arange(7) < torch.tensor(LENGTHS)[:, None])
    return Batch(torch.arange(B), F.pad(x, (0, pad)), torch.arange(B) % 4, seed=5)


def network(name, seed=0, **sizes):
    torch.manual_seed(seed)
    made = models.build(name, **{**TOKENS, **sizes})
    made.keep_attentions = True
    return made


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


IMAGES_ONLY = ("fitnet", "at", "vid", "nst", "ab", "ft", "fsp", "ofd", "sskd")
EITHER = ("sp", "cc", "rkd", "pkt", "crd", "dkd", "atkd", "ctkd", "pesf_kd_lora")


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_RUNS", str(tmp_path_factory.mktemp("store")))
        for teacher in (TEXT_TEACHER, TEACHER):
            ensure(teacher, device="cpu")
        yield


def opened(method, **changes):
    return runs._open(text_student(method, **changes), "cpu")


@pytest.mark.parametrize("method", IMAGES_ONLY)
def test_methods_that_compare_images_refuse_texts(method):
    with pytest.raises(
        ValueError, match=r"student bert-l2-d16-p10, teacher bert-l4-d16-p10: .*(images|preactivations)"
    ):
        opened(method)


@pytest.mark.parametrize("method", ["pkd", "tinybert"])
def test_methods_that_compare_transformers_refuse_images(method):
    with pytest.raises(ValueError, match=r"student resnet8-w2, teacher resnet8-w4: .*layers of transformers"):
        runs._open(student(method), "cpu")


@pytest.mark.parametrize("method", EITHER)
def test_methods_on_logits_and_embeddings_take_texts(method):
    # the memories of CRD are random at first: with its own weight its term hides the rest for longer than a test lasts
    settings = {"negatives": 64, "method_weight": 0.05} if method == "crd" else {}
    rows = list(train(opened(method, settings=settings, epochs=6)))
    assert rows[-1]["loss"] < rows[0]["loss"]


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


def first_batch(made):
    index = torch.arange(40)
    return Batch(index, next(made.data.inputs("train", 40)), made.data.train_y[index], seed=1)


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


@pytest.mark.parametrize(("which", "layers"), [("first", [0, 1]), ("every-second", [1, 3])])
def test_a_run_that_starts_as_a_part_of_its_teacher(which, layers):
    run = text_student("pkd", student_layers=which)
    assert run.key != text_student("pkd").key and f"{which} layers of it" in run.label
    made = runs._open(run, "cpu")
    teacher = ensure(TEXT_TEACHER, device="cpu").network()
    for own, i in zip(made.student.stages, layers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(own.parameters(), teacher.stages[i].parameters(), strict=True))
    assert torch.equal(made.student.classifier.weight, teacher.classifier.weight)
    before = {name: value.clone() for name, value in made.frozen.network.state_dict().items()}
    list(train(made))
    assert all(torch.equal(before[name], value) for name, value in made.frozen.network.state_dict().items())


def test_layers_are_copied_from_a_teacher_only():
    for changes in ({"teacher": None, "method": "alone"}, {"start_from": text_student("alone", teacher=None)}):
        with pytest.raises(ConfigError, match="student_layers are copied from the run's teacher"):
            text_student(**{"student_layers": "first", **changes})
    with pytest.raises(ConfigError, match="Did you mean 'every-second'"):
        text_student(student_layers="every_second")
    assert "student_layers" not in text_student()._canonical()  # keys of runs without it are what they were


def test_mutual_learning_on_texts():
    made = runs._open(
        Run(network="bert-l1-d16", peers=("bert-l2-d16-p10",), method="dml", **{**TEXT, "epochs": 4}), "cpu"
    )
    rows = list(train(made))
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["teacher_accuracy"] > 0


def sftn(**changes):
    settings = {"student": "bert-l2-d16-p10", **changes.pop("settings", {})}
    return Run(**{"network": "bert-l4-d8", "method": "sftn", "settings": settings, **TEXT, **changes})


def test_a_student_friendly_transformer():
    """One branch, at the teacher's second layer of four; it is the student's second layer, pooler and classifier."""
    made = runs._open(sftn(epochs=4), "cpu")
    (key, branch), *others = made.method.branches.items()
    assert key == "2" and branch.stage == 1 and not others
    owned = {name.split(".")[0] for name, _ in branch.student.named_parameters()}
    assert owned == {"stages", "pooler", "classifier"}
    assert {name.split(".")[1] for name, _ in branch.student.stages.named_parameters(prefix="stages")} == {"1"}
    before = [p.detach().clone() for p in made.method.parameters()]
    rows = list(train(made))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert all(not torch.equal(a, b) for a, b in zip(before, made.method.parameters(), strict=True))
    made.parts.eval()
    x = first_batch(made).x
    x = x[(x != 0).sum(1) <= 8]
    with torch.no_grad():
        near, far = (branch(made.student(seen).maps[2]) for seen in (x[:, :8], x))
    assert len(near) > 5 and x.shape[1] > 8
    torch.testing.assert_close(near, far)


def test_states_of_another_width_keep_their_padding():
    h = torch.randn(2, 3, 4)
    h[1, 1:] = 0
    out = States(4, 6)(h)
    assert out.shape == (2, 3, 6) and torch.equal((out != 0).any(2), (h != 0).any(2))


def test_a_branch_of_an_image_network_cannot_read_texts():
    with pytest.raises(ValueError, match="'resnet8' reads images"):
        runs._open(sftn(settings={"student": "resnet8"}), "cpu")
    with pytest.raises(ValueError, match="a branch needs two stages"):
        runs._open(sftn(settings={"student": "bert-l1-d16"}), "cpu")


def numbers():
    """Texts whose number of sevens is to be predicted."""
    rng = np.random.default_rng(0)
    parts = []
    for n in (80, 40):
        x = rng.integers(4, 10, (n, 6)).astype(np.int32)
        parts.append((x, (x == 7).sum(1).astype(np.float32)))
    tokens = [f"t{i}" for i in range(10)]
    return text_data("numbers", *parts, ["sevens"], tokens, pad=0, score="pearson")


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("kd", {}),
        ("pkd", {}),
        ("pkd", {"policy": "adapter"}),
        ("pkd", {"policy": "layer_adapter"}),
        ("pkd", {"policy": "finetune"}),
        ("tinybert", {"settings": ONE_EPOCH}),
        ("dml", {"teacher": None, "peers": ("bert-l1-d16",)}),
        ("sftn", {"teacher": None, "network": "bert-l4-d16", "settings": {"student": "bert-l2-d16"}}),
    ],
)
def test_a_number_is_distilled_by_squared_errors(method, changes):
    data = numbers()
    run = text_student(method, **{"epochs": 10, "precision": "fp32", **changes})
    known = {}
    if run.teacher:
        torch.manual_seed(0)
        known["teacher_network"] = models.build("bert-l4-d16", **data.sizes)
        known["test_memory"] = predict(known["teacher_network"], data, "test", precision="fp32")
    made = start(run, data, device=CPU, precision="fp32", **known)
    rows = list(train(made))
    after = rows[run.setup_epochs :]
    assert after[-1]["loss"] < after[0]["loss"]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert "pearson" in rows[-1] and "train_accuracy" not in rows[-1]


def test_dml_of_numbers():
    out = [Outputs(torch.tensor([[z], [z + 1]]), torch.zeros(2, 1)) for z in (0.0, 1.0, 4.0)]
    method = METHODS["dml"].method()
    terms = method(out[0], tuple(out[1:]), Batch(None, None, torch.tensor([0.0, 0.0])), 0.0)
    assert terms["ce"].item() == 0.5
    assert terms["kd"].item() == (1 + 16) / 2
    assert terms["peers_kd"].item() == (1 + 9) / 2 + (16 + 9) / 2
    assert terms["peers_ce"].item() == (1 + 4) / 2 + (16 + 25) / 2


def test_methods_that_only_compare_classes_refuse_numbers():
    data = numbers()
    teacher = models.build("bert-l4-d16", **data.sizes)
    with pytest.raises(ValueError, match="method 'dkd' compares classes, and numbers has a number to predict"):
        start(text_student("dkd"), data, device=CPU, precision="fp32", teacher_network=teacher)
