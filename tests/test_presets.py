"""Every row of `METHODS`: it learns, it moves what it should and nothing else, and it goes on to the bit."""

import copy

import pytest
import torch
from tiny import TEACHER, TEXT_TEACHER, example
from torch import nn
from torch.nn import functional as F

from kd_lib import runs
from kd_lib.methods import METHODS
from kd_lib.runs import ensure
from kd_lib.shapes import Batch
from kd_lib.teachers import POLICIES
from kd_lib.train import loss_terms, setup_terms, train

ADAPTERS = 2  # tensors of an adapter: down and up


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    """One store for the whole file, so that the teacher is trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_RUNS", str(tmp_path_factory.mktemp("store")))
        patch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
        for teacher in (TEACHER, TEXT_TEACHER):
            ensure(teacher, device="cpu")
        yield patch


def opened(method, **changes):
    return runs._open(example(method, **changes), "cpu")


def weights(module):
    return copy.deepcopy(module.state_dict())


def changed(before, module):
    after = module.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("method", list(METHODS))
def test_it_learns_and_moves_only_what_should_move(method):
    """Thirty steps lower its loss; every weight of the student, the method and a moving teacher takes part."""
    made = opened(method, epochs=6)
    student, own = weights(made.student), dict(made.method.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in own.items()}
    teacher = weights(made.teacher) if made.teacher else {}
    frozen = weights(made.frozen.network) if made.frozen else {}
    log = list(train(made))
    rows = log[made.run.setup_epochs :]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert [row["epoch"] for row in log] == list(range(1 - made.run.setup_epochs, 7))
    assert changed(student, made.student) == set(student)  # buffers included
    assert {name for name in own if torch.equal(before[name], own[name])} == set()
    optimised = {id(p) for group in made.optimiser.param_groups for p in group["params"]}
    assert {id(p) for p in own.values()} <= optimised
    if made.teacher:
        assert changed(teacher, made.teacher) == set(teacher)
        policy = METHODS[method].policy
        expected = {"frozen": 0, "adapter": ADAPTERS, "layer_adapter": 4 * 2 * ADAPTERS}.get(policy)
        assert expected is None or len(list(made.teacher.parameters())) == expected
    if made.frozen:
        assert changed(frozen, made.frozen.network) == set(), "weights and batch-norm buffers of a frozen teacher"
        assert not made.frozen.network.training


@pytest.mark.parametrize("method", list(METHODS))
def test_stopped_after_each_epoch_it_ends_with_the_same_bits(method, monkeypatch, tmp_path_factory):
    """Layers, memories, phases and momentum are all in the checkpoint."""
    run = example(method)
    straight = ensure(run, device="cpu")._weights("")
    ends = runs.find(run).metrics
    other = tmp_path_factory.mktemp("other")
    monkeypatch.setenv("KD_RUNS", str(other))

    class Stop(Exception):
        pass

    def stop(row):
        raise Stop

    for parent in run.parents:
        ensure(parent, device="cpu")
    for _ in range(run.total_epochs - 1):
        with pytest.raises(Stop):
            ensure(run, device="cpu", on_epoch=stop)
        assert list((other / "work" / run.key).glob("checkpoint-*"))
    resumed = ensure(run, device="cpu")
    assert resumed.metrics.drop(columns="seconds").equals(ends.drop(columns="seconds"))
    again = resumed._weights("")
    assert straight.keys() == again.keys()
    assert all(torch.equal(straight[name], again[name]) for name in straight)


def running(norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_batch_may_be_split_exactly_where_the_method_relates_no_samples(method, monkeypatch):
    """24 samples and 16, weighted with their numbers, or all 40: batch norm put aside, each loss term is the same."""
    monkeypatch.setattr(nn.BatchNorm2d, "forward", running)
    made = opened(method, precision="fp32")
    for dropout in (module for module in made.parts.modules() if isinstance(module, nn.Dropout)):
        dropout.p = 0.0
    made.parts.eval()
    x = next(made.data.inputs("train", 40))

    def terms(phase, positions):
        session, index = copy.copy(made), torch.arange(40)[positions]
        session.method = copy.deepcopy(made.method)  # memories as they were
        return phase(session, Batch(index, x[positions], made.data.train_y[index], seed=7), progress=1.0)[1]

    apart = {}
    for phase in [loss_terms, *([setup_terms] if made.run.setup_epochs else [])]:
        whole, first, second = (terms(phase, slice(*ends)) for ends in ((0, 40), (0, 24), (24, 40)))
        for name, value in whole.items():
            parts = 0.6 * first[name] + 0.4 * second[name]
            apart[f"{phase.__name__} {name}"] = ((parts - value).abs() / value.abs()).item()
    if made.method.relates_samples:
        assert max(apart.values()) > 5e-4, apart
    else:
        assert max(apart.values()) < 1e-5, apart


@pytest.mark.parametrize("policy", ["adapter", "finetune"])
@pytest.mark.parametrize("method", [m for m, p in METHODS.items() if p.policy == "frozen" and p.method.needs_teacher])
def test_a_moving_teacher_goes_with_every_loss(method, policy):
    made = opened(method, policy=policy, epochs=1, settings={**example(method).settings, "lr": 1e-3})
    moving = weights(made.teacher)
    rows = list(train(made))
    assert all(torch.tensor(row["loss"]).isfinite() for row in rows)
    assert changed(moving, made.teacher) == set(moving)


def test_every_policy_has_a_preset():
    assert {preset.policy for preset in METHODS.values()} == set(POLICIES)


def test_a_method_that_needs_a_teacher_says_so():
    with pytest.raises(ValueError, match="needs a teacher"):
        example("kd", teacher=None)
    with pytest.raises(ValueError, match="needs no teacher"):
        example("dml", teacher=TEACHER)
    with pytest.raises(ValueError, match="needs peers"):
        example("dml", peers=())
