"""Curricula: what each chain consists of. Nothing trains here."""

import pytest
from tiny import TEACHER, student, text_student

from kd_lib import curricula, plan, train
from kd_lib.config import Run

PAPER = Run(network="resnet8", method="kd", teacher=Run(network="resnet56"), seed=3, settings={"tau": 3.0})
EVERY = {
    "takd": lambda run: curricula.takd(run, ["resnet14"]),
    "early_stopped_teacher": curricula.early_stopped_teacher,
    "eskd": curricula.eskd,
    "patient_teacher": lambda run: curricula.patient_teacher(run, 2000),
    "rco": curricula.rco,
    "rco_eei": curricula.rco_eei,
    "rco_eei_4": curricula.rco_eei_4,
    "sftn": curricula.sftn,
    "sftn_finetuned": curricula.sftn_finetuned,
    "sftn_4": curricula.sftn_4,
}


def test_takd_goes_through_its_assistants():
    run = curricula.takd(PAPER, ["resnet32", "resnet14"])
    networks, step = [], run
    while step.teacher is not None:
        networks.append(step.network)
        assert (step.method, step.settings, step.seed) == ("kd", {"tau": 3.0}, 3)
        step = step.teacher
    assert networks == ["resnet8", "resnet14", "resnet32"]
    assert step == PAPER.teacher
    with pytest.raises(ValueError, match="at least one assistant"):
        curricula.takd(PAPER, [])


def test_takd_shares_what_chains_have_in_common():
    """The plan of several chains holds the teacher and a shared assistant once, each before its students."""
    run = student()
    steps = plan.plan([run, curricula.takd(run, ["resnet8-w3"]), curricula.takd(run, ["resnet8-w3", "resnet8-w1"])])
    keys = [step.key for step in steps]
    assert len(keys) == len(set(keys)) == 6
    assert keys[0] == TEACHER.key
    for step in steps:
        assert all(keys.index(parent.key) < keys.index(step.key) for parent in step.run.parents)


def test_an_early_stopped_teacher_keeps_its_schedule():
    run = curricula.early_stopped_teacher(PAPER)
    assert (run.teacher.epochs, run.teacher.stop_after, run.teacher.total_epochs) == (240, 60, 60)
    assert run.replace(teacher=PAPER.teacher) == PAPER
    assert curricula.early_stopped_teacher(PAPER, 1.0).teacher.stop_after == 240
    for wrong in (0.0, -1.0, 1.5):
        with pytest.raises(ValueError, match="a share of the epochs"):
            curricula.early_stopped_teacher(PAPER, wrong)


def test_eskd_stops_the_teacher_and_then_the_teaching():
    run = curricula.eskd(PAPER)
    assert run.teacher.stop_after == 60
    assert run.settings == {"tau": 3.0, "until_epoch": 150}
    assert run.epochs == 240 and run.stop_after is None
    assert curricula.eskd(PAPER, 0.5, 0.1).settings["until_epoch"] == 24


def test_a_patient_teacher_gives_nothing_but_predictions():
    run = curricula.patient_teacher(PAPER.replace(method="atkd", policy="adapter", settings={}), epochs=2000)
    settings = {name: run.method_settings[name] for name in ("tau", "kd_weight", "ce_weight")}
    assert settings == {"tau": 1.0, "kd_weight": 1.0, "ce_weight": 0.0}
    assert (run.epochs, run.policy_type.__name__, run.teacher) == (2000, "Frozen", PAPER.teacher)


def test_rco_in_one_stage_is_one_training_with_changing_teachers():
    stages = curricula.chain(curricula.rco(PAPER))
    assert [stage.teacher.stop_after for stage in stages] == [60, 120, 180, None]
    assert stages[-1].teacher == PAPER.teacher
    assert [stage.epochs for stage in stages] == [60] * 4
    assert [stage.start_from for stage in stages] == [None, *stages[:-1]]
    assert {(stage.network, stage.seed, str(stage.settings)) for stage in stages} == {("resnet8", 3, "{'tau': 3.0}")}


@pytest.mark.parametrize("anchors", [1, 3, 4, 7])
@pytest.mark.parametrize("epochs", [240, 100])
def test_rco_follows_the_learning_rate_of_the_whole_run(anchors, epochs):
    whole = PAPER.replace(epochs=epochs)
    stages = curricula.chain(curricula.rco(whole, anchors))
    rates = [stage.lr * train.lr_factor(stage, epoch) for stage in stages for epoch in range(stage.epochs)]
    assert rates == pytest.approx([whole.lr * train.lr_factor(whole, epoch) for epoch in range(epochs)])
    ends = [stage.teacher.total_epochs for stage in stages]
    assert ends == sorted(ends) and ends[-1] == 240


def test_rco_cuts_only_what_can_be_cut():
    with pytest.raises(ValueError, match=r"got 'one_cycle'\. Allowed: schedule='step', or rco_eei"):
        curricula.rco(student())
    for wrong in (0, 241):
        with pytest.raises(ValueError, match=r"anchors must lie in 1..240"):
            curricula.rco(PAPER, wrong)


def test_rco_eei_4_trains_four_times_as_long():
    run = curricula.rco_eei_4(PAPER)
    stages = curricula.chain(run)
    assert [stage.teacher.total_epochs for stage in stages] == [60, 120, 180, 240]
    assert sum(stage.total_epochs for stage in stages) == 240 * 4
    for stage in stages:
        assert stage.replace(teacher=PAPER.teacher, start_from=None) == PAPER.replace(start_from=None)
    assert run == curricula.rco_eei(PAPER, anchors=4)
    assert len(curricula.chain(curricula.rco_eei(student(), anchors=2))) == 2  # any schedule


def test_rco_with_one_anchor_is_plain_distillation():
    run = student()
    assert curricula.rco_eei(run, anchors=1).key == run.key
    assert curricula.rco(PAPER, anchors=1) == PAPER


def test_a_route_begins_with_the_teachers_layers_once():
    run = text_student(student_layers="first")
    first, second = curricula.chain(curricula.rco_eei(run, anchors=2))
    assert (first.student_layers, first.start_from, first.teacher.stop_after) == ("first", None, 1)
    assert (second.student_layers, second.start_from, second.teacher) == (None, first, run.teacher)


def test_sftn_retrains_the_teacher_for_the_student():
    run = curricula.sftn(PAPER)
    assert (run.teacher.network, run.teacher.method, run.teacher.teacher) == ("resnet56", "sftn", None)
    assert run.teacher.settings == {"student": "resnet8"}
    assert run.replace(teacher=PAPER.teacher) == PAPER
    assert curricula.sftn(PAPER.replace(network="resnet14")).teacher != run.teacher


def test_sftn_finetuned_starts_from_the_teacher():
    run = curricula.sftn_finetuned(PAPER)
    friendly = run.teacher
    assert friendly.start_from == PAPER.teacher
    assert (friendly.setup_epochs, friendly.epochs, friendly.total_epochs) == (30, 30, 60)
    assert friendly.method_settings["student"] == "resnet8"
    assert curricula.sftn_finetuned(PAPER, epochs=1).teacher.total_epochs == 2


def test_sftn_4_gives_the_student_four_times_the_epochs():
    run = curricula.sftn_4(PAPER)
    assert (run.epochs, run.teacher) == (960, curricula.sftn(PAPER).teacher)
    milestones = [epoch for epoch in range(1, 960) if train.lr_factor(run, epoch) < train.lr_factor(run, epoch - 1)]
    assert milestones == [600, 720, 840]


@pytest.mark.parametrize("name", EVERY)
def test_a_curriculum_needs_a_teacher_and_changes_no_run(name):
    before = PAPER.model_dump_json()
    assert isinstance(EVERY[name](PAPER), Run)
    assert PAPER.model_dump_json() == before
    with pytest.raises(ValueError, match="needs a run with a teacher, got: resnet8"):
        EVERY[name](Run(network="resnet8"))


@pytest.mark.parametrize("name", ["sftn", "sftn_finetuned", "sftn_4"])
def test_a_student_friendly_teacher_was_trained_alone(name):
    with pytest.raises(ValueError, match="needs a teacher trained alone"):
        EVERY[name](PAPER.replace(teacher=PAPER))


def test_curricula_are_different_runs_that_survive_the_store():
    base = student(schedule="step", epochs=8, teacher=TEACHER.replace(epochs=8))
    found = [make(base) for make in EVERY.values()]
    assert len({run.key for run in [base, *found]}) == len(EVERY)  # rco_eei's default is rco_eei_4
    for run in found:
        again = Run.model_validate_json(run.model_dump_json())
        assert again.key == run.key
        assert all(
            again_step.key == step.key for again_step, step in zip(plan.plan([again]), plan.plan([run]), strict=True)
        )
