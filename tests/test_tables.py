"""Tables of runs: every number against the run it comes from."""

import math

import pytest
import torch
from tiny import TEACHER, student

from kd_lib import metrics, runs, tables


def test_a_row_is_what_the_outputs_say():
    result = runs.ensure(student("atkd_16", settings={"kd_weight": 0.5}))
    (row,) = tables.summary([result]).to_dict("records")
    z_s, z_t = result.outputs.logits, result.teacher.outputs.logits
    assert (row["method"], row["teacher"], row["seed"], row["kd_weight"]) == ("atkd_16", "resnet8-w4", 1, 0.5)
    assert row["parameters"] == sum(p.numel() for p in result.network().parameters())
    assert row["gap"] == pytest.approx((z_t.double().logsumexp(1) - z_s.double().logsumexp(1)).mean().item())
    sigmas = [z.double().std(1, correction=0, keepdim=True) for z in (z_s, z_t)]
    tempered = (z_t / sigmas[1]).logsumexp(1) - (z_s / sigmas[0]).logsumexp(1)
    assert row["gap_tempered"] == pytest.approx(tempered.mean().item(), rel=1e-5)
    assert row["cka_logits"] == pytest.approx(metrics.linear_cka(z_s, z_t))
    assert row["accuracy"] == pytest.approx(100 * (z_s.argmax(1) == result.y).double().mean().item())
    assert row["teacher_accuracy"] == pytest.approx(result.teacher.accuracy)


def test_the_gap_is_to_the_teacher_as_it_was_at_the_end():
    result = runs.ensure(student("ft_kd"))
    (row,) = tables.summary([result]).to_dict("records")
    assert row["gap"] == pytest.approx(metrics.sharpness_gap(result.outputs.logits, result.teacher_outputs.logits))
    assert row["gap"] != pytest.approx(metrics.sharpness_gap(result.outputs.logits, result.teacher.outputs.logits))
    assert row["gap"] == pytest.approx(result.metrics["gap"].iloc[-1], rel=1e-6)


def test_networks_without_a_teacher_stand_in_the_same_table():
    table = tables.summary([runs.ensure(TEACHER), runs.ensure(student("kd"))])
    assert table.teacher.tolist() == ["", "resnet8-w4"]
    assert math.isnan(table.gap[0])
    log = tables.epochs([runs.ensure(TEACHER), runs.ensure(student("kd"))])
    assert log.epoch.tolist() == [1, 2, 1, 2]
    assert log.method.tolist() == ["alone", "alone", "kd", "kd"]


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (9.84, 4.7, "+9.8 ± 4.7 points, higher"),
        (-9.84, 4.7, "-9.8 ± 4.7 points, lower"),
        (4.0, 4.7, "+4.0 ± 4.7 points, undecided"),
        (4.0, math.nan, "+4.0 points (one seed, no interval)"),
    ],
)
def test_verdicts(mean, half, text):
    assert tables.verdict(mean, half) == text


def test_a_share_has_no_unit():
    assert tables.verdict(0.1, 0.2, "", 3) == "+0.100 ± 0.200, undecided"
    assert tables.verdict(0.1, math.nan, "", 3) == "+0.100 (one seed, no interval)"


def test_captions_count():
    assert (
        tables.caption("digits100", 8, [0, 1, 2], "resnet8 to resnet8-w4")
        == "digits100, 8 epochs, 3 seeds, resnet8 to resnet8-w4"
    )
    assert tables.caption("cifar100", 1, [4]) == "cifar100, 1 epoch, 1 seed"


def test_a_collapsed_network_resembles_nothing():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert tables._cka(x, x) == pytest.approx(1.0)
    assert math.isnan(tables._cka(torch.ones(5, 3), x))
    assert math.isnan(tables._cka(x, torch.zeros(5, 2)))
