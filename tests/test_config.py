"""The description of a run: strict, helpful, and keyed by meaning."""

import pytest
from tiny import TEACHER, TINY, example, student

from kd_lib.config import ConfigError, Run, protocol
from kd_lib.methods import METHODS


@pytest.mark.parametrize(
    ("change", "nearest"),
    [
        ({"epoch": 3}, "'epochs'"),
        ({"schedule": "one_circle"}, "'one_cycle'"),
        ({"method": "pefs_kd"}, "'pesf_kd'"),
        ({"policy": "adaptor"}, "'adapter'"),
        ({"settings": {"tao": 2.0}}, "'tau'"),
        ({"settings": {"variant": "v3"}, "method": "pesf_kd"}, "'v2'"),
        ({"network": "resnet21"}, "resnet20"),
    ],
)
def test_a_slip_is_refused_with_the_nearest_name(change, nearest):
    with pytest.raises(ConfigError, match=nearest):
        student(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": "3"},
        {"epochs": 0},
        {"lr": -1.0},
        {"settings": {"tau": "4"}},
        {"settings": {"rank": 2.5}, "method": "pesf_kd"},
    ],
)
def test_a_wrong_value_is_refused(change):
    with pytest.raises(ConfigError):
        student(**change)


def test_teachers_and_methods_must_fit():
    with pytest.raises(ConfigError, match="needs no teacher"):
        student("alone")
    with pytest.raises(ConfigError, match="needs a teacher"):
        Run(network="resnet8-w2", method="kd", **TINY)
    with pytest.raises(ConfigError, match="same data"):
        student(data_settings={"n_train": 400, "n_test": 100})


def test_spelling_out_a_default_keeps_the_key():
    assert student().key == student(settings={"tau": 4.0, "kd_weight": 0.9}, momentum=0.9, precision="auto").key
    assert student(settings={"tau": 4}).key == student(settings={"tau": 4.0}).key


def test_a_preset_is_only_a_name():
    spelled = student("kd", policy="adapter", settings={"label_adjustment": True})
    assert spelled.key == student("pesf_kd").key
    assert student("kd", settings={"label_adjustment": True}).key == student("kd_adjusted").key


def test_whatever_changes_the_result_changes_the_key():
    variants = [
        student(),
        student(seed=2),
        student(epochs=3),
        student(settings={"tau": 2.0}),
        student(split="validation", teacher=TEACHER.replace(split="validation")),
        student(teacher=TEACHER.replace(seed=5)),
        student(precision="fp32"),
        student(start_from=student()),
        student(start_from=student(seed=2)),
        student(stop_after=1),
        *(example(name) for name in METHODS if name not in ("alone", "kd")),
    ]
    assert len({run.key for run in variants}) == len(variants)


def test_settings_reach_every_part_that_has_them():
    run = student("pesf_kd", settings={"tau": 2.0, "rank": 8})
    assert run.method_settings["tau"] == run.policy_settings["tau"] == 2.0
    assert run.policy_settings["rank"] == 8
    assert run.policy_settings["label_adjustment"] is True


def test_a_description_survives_json():
    run = student("pesf_kd", settings={"tau": 2.0})
    assert Run.model_validate_json(run.model_dump_json()).key == run.key


def test_the_default_is_the_papers_protocol():
    run = Run(network="resnet20")
    assert (run.epochs, run.batch_size, run.lr, run.momentum, run.weight_decay) == (240, 64, 0.05, 0.9, 5e-4)
    assert [round(m * run.epochs) for m in run.milestones] == [150, 180, 210]
    assert protocol("digits100", epochs=3, lr=None)["epochs"] == 3
    assert protocol("digits100", lr=None)["lr"] == 0.2
    assert protocol("pictures:some/folder")["epochs"] == 100
    assert {"optimiser": "adamw", "schedule": "linear", "lr": 3e-5}.items() <= protocol("glue/rte").items()


def test_epochs_that_are_trained():
    assert example("ab").total_epochs == example("ab").setup_epochs + 2 == 3
    assert student(stop_after=1).total_epochs == 1
    assert student().total_epochs == 2
    assert [run.key for run in student(start_from=student(seed=2)).parents] == [TEACHER.key, student(seed=2).key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stop_after": 3}, "stop_after=3 is beyond the run's 2 epochs"),
        ({"start_from": TEACHER}, "resnet8-w2 cannot start from the weights of resnet8-w4"),
        ({"start_from": student(split="validation", teacher=TEACHER.replace(split="validation"))}, "same data"),
        ({"peers": ("resnet8-w2",)}, "needs no peers"),
        ({"method": "dml", "teacher": None, "peers": ("resnet8-w3x",)}, "resnet8-w3x"),
        ({"policy": "peers", "peers": ("resnet8-w2",)}, "method 'kd' does not go with policy 'peers'"),
        ({"method": "dml", "policy": "frozen"}, "method 'dml' does not go with policy 'frozen'"),
    ],
)
def test_parents_and_peers_that_do_not_fit_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        student(**change)
