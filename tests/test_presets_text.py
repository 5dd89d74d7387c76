"""Every kind of method on texts: which take them, how students start, and how a number is distilled."""

import math

import numpy as np
import pytest
import torch
import toy_texts
from tiny import TEXT, TEXT_TEACHER, text_student
from toy_texts import ONE_EPOCH, first_batch, opened

from kd_lib import models, runs
from kd_lib.config import ConfigError, Run
from kd_lib.data.text import text_data
from kd_lib.methods import METHODS
from kd_lib.methods.sftn import States
from kd_lib.runs import ensure
from kd_lib.session import start
from kd_lib.shapes import Batch, Outputs
from kd_lib.train import predict, train

store = toy_texts.store  # for every test of this file

CPU = torch.device("cpu")
IMAGES_ONLY = ("fitnet", "at", "vid", "nst", "ab", "ft", "fsp", "ofd", "sskd")
EITHER = ("sp", "cc", "rkd", "pkt", "crd", "dkd", "atkd", "ctkd", "pesf_kd_lora")


@pytest.mark.parametrize("method", IMAGES_ONLY)
def test_methods_that_compare_images_refuse_texts(method):
    with pytest.raises(
        ValueError, match=r"student bert-l2-d16-p10, teacher bert-l4-d16-p10: .*(images|preactivations)"
    ):
        opened(method)


@pytest.mark.parametrize("method", EITHER)
def test_methods_on_logits_and_embeddings_take_texts(method):
    # the memories of CRD are random at first: with its own weight its term hides the rest for longer than a test lasts
    settings = {"negatives": 64, "method_weight": 0.05} if method == "crd" else {}
    rows = list(train(opened(method, settings=settings, epochs=6)))
    assert rows[-1]["loss"] < rows[0]["loss"]


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
