"""The loop: what moves, what it logs, when it stops."""

import copy
import math

import pytest
import torch
from tiny import TEACHER, student
from torch.nn import functional as F

from kd_lib import data, models
from kd_lib.config import Run
from kd_lib.data.batches import augment, epoch_order, normalise
from kd_lib.session import NonFiniteLoss, Session, start
from kd_lib.shapes import Outputs
from kd_lib.train import evaluate, lr_factor, predict, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    return data.load("digits100", **TEACHER.data_settings)


@pytest.fixture
def teacher(images):
    torch.manual_seed(7)
    network = models.build("resnet8-w4", n_classes=100, in_channels=1)
    for module in network.modules():  # statistics that folding must not lose
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def session(run, images, teacher, precision="fp32", memory=None) -> Session:
    if run.teacher is None:
        return start(run, images, device=CPU, precision=precision)
    test = predict(teacher, images, "test", precision=precision)
    return start(run, images, device=CPU, precision=precision, teacher_network=teacher, memory=memory, test_memory=test)


def weights(module):
    return copy.deepcopy(module.state_dict())


def changed(before, module):
    after = module.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_one_step_is_sgd_by_hand(images, teacher):
    """The first update of KD, recomputed with plain operations on a copy of the student."""
    run = student(epochs=1, batch_size=200, schedule="step", lr=0.02)
    made = session(run, images, teacher)
    twin = copy.deepcopy(made.student).train()
    list(train(made))
    order = epoch_order(200, seed=run.seed, epoch=0)
    x, y = normalise(images.train_x[order], images.mean, images.std), images.train_y[order]
    with torch.no_grad():
        log_p_t = F.log_softmax(teacher(x).logits / 4, 1)
    z_s = twin(x).logits
    kd = 16 * (log_p_t.exp() * (log_p_t - F.log_softmax(z_s / 4, 1))).sum(1).mean()
    (0.9 * kd + 0.1 * F.cross_entropy(z_s, y)).backward()
    with torch.no_grad():
        for ours, theirs in zip(made.student.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs - 0.02 * (theirs.grad + 5e-4 * theirs), rtol=1e-4, atol=1e-6)


def test_a_remembered_teacher_says_what_a_computed_one_says(images, teacher):
    memory = predict(teacher, images, "train", precision="fp32")
    logs = []
    for remembered in (None, memory):
        made = session(student("pesf_kd"), images, teacher, memory=remembered)
        logs.append([row["loss"] for row in train(made)])
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)


def test_seeds_pair_the_runs(images, teacher):
    """Runs of one seed start from the same student and see the same batches, whatever they match."""
    starts = [weights(session(student(m), images, teacher).student) for m in ("kd", "pesf_kd", "ft_kd")]
    assert all(torch.equal(starts[0][k], other[k]) for other in starts[1:] for k in starts[0])
    other = weights(session(student(seed=2), images, teacher).student)
    assert not torch.equal(starts[0]["classifier.weight"], other["classifier.weight"])


def test_training_is_deterministic_and_leaves_the_global_generator_alone(images, teacher):
    ends = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        before = torch.random.get_rng_state()
        made = session(student("pesf_kd"), images, teacher, precision="bf16")
        list(train(made))
        assert torch.equal(before, torch.random.get_rng_state())
        ends.append(weights(made.parts))
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


def test_the_log_is_what_the_outputs_say(images, teacher):
    made = session(student("kd"), images, teacher)
    *_, row = train(made)
    out = predict(made.student, images, "test", precision="fp32")
    z_t = made.test_memory.logits
    gap = (z_t.double().logsumexp(1) - out.logits.double().logsumexp(1)).mean().item()
    assert row["accuracy"] == pytest.approx(100 * (out.logits.argmax(1) == images.test_y).double().mean().item())
    assert row["gap"] == pytest.approx(gap, rel=1e-6)
    assert row["loss"] == pytest.approx(row["loss_kd"] + row["loss_ce"])
    assert row["epoch"] == 2
    assert {"train_accuracy", "kl", "seconds", "lr"} <= set(row)


def test_evaluation_is_the_unfolded_network_in_evaluation_mode(images, teacher):
    x = normalise(images.test_x, images.mean, images.std)
    with torch.no_grad():
        expected: Outputs = teacher(x)
    out = predict(teacher, images, "test", precision="fp32")
    torch.testing.assert_close(out.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.embedding, expected.embedding, rtol=1e-4, atol=1e-4)


def test_a_diverging_run_stops_with_step_and_terms(images, teacher):
    with pytest.raises(NonFiniteLoss, match=r"epoch \d+, step \d+: kd=.*, ce="):
        list(train(session(student(lr=1e30, schedule="step"), images, teacher)))


def test_evaluation_changes_nothing(images, teacher):
    made = session(student("ft_kd"), images, teacher)
    made.parts.train()
    before = weights(made.parts)
    evaluate(made)
    assert changed(before, made.parts) == set()


def test_learning_rate_schedules_by_hand():
    paper = Run(network="resnet20", data="digits100")
    factors = [lr_factor(paper, epoch) for epoch in (0, 149.99, 150, 179, 180, 210, 239)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.001, 0.001])
    cosine = paper.replace(schedule="cosine", epochs=10)
    assert [lr_factor(cosine, e) for e in (0, 5, 10)] == pytest.approx([1, 0.5, 0], abs=1e-12)
    cycle = paper.replace(schedule="one_cycle", epochs=10)
    assert [lr_factor(cycle, e) for e in (0, 1.5, 3, 6.5, 10)] == pytest.approx([0.04, 0.52, 1, 0.5, 0], abs=1e-12)
    assert all(math.isfinite(lr_factor(cycle, e / 10)) for e in range(101))


def test_the_last_smaller_batch_is_trained_on_unless_it_is_a_single_sample(images, teacher):
    assert augment(images.train_x[:1], "none", seed=0, epoch=0, step=0).shape == (1, 1, 12, 20)
    for batch_size in (199, 150):  # 200 images: a single one is left over; 50 are
        rows = list(train(session(student(batch_size=batch_size, epochs=1), images, teacher)))
        assert math.isfinite(rows[0]["loss"])


@pytest.mark.parametrize(
    ("method", "settings", "asked"),
    [
        ("kd", {}, [True, True]),
        ("kd", {"until_epoch": 1}, [True, False]),
        ("ab", {"setup_epochs": 1}, [True, False, False]),  # the epoch of the setup comes first
        ("ab", {"setup_epochs": 1, "kd_weight": 0.5}, [True, True, True]),
    ],
)
def test_a_frozen_teacher_that_nobody_reads_is_not_asked(images, teacher, method, settings, asked):
    made = session(student(method, settings=settings), images, teacher)
    calls, frozen = [0], made.frozen

    def counted(batch):
        calls[-1] += 1
        return frozen(batch)

    made.frozen = counted
    for _ in train(made):
        calls.append(0)
    assert [count > 0 for count in calls[:-1]] == asked


def test_a_moving_teacher_is_always_asked(images, teacher):
    made = session(student("kd", policy="finetune", settings={"until_epoch": 1}), images, teacher)
    *_, last = train(made)
    assert last["loss_teacher_ce"] > 0
