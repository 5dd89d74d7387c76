"""Where verdicts get their runs from: the notebooks' own declarations and the store, and nothing is trained."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tiny import TEACHER, TINY, student

from kd_lib import claims, cost, curricula, metrics, models, runs, tables
from kd_lib.claims import NOT_RUN, UNDECIDED, check, coverage, timing
from kd_lib.claims.claim import Claim, by
from kd_lib.claims.compare import against
from kd_lib.claims.evidence import Evidence
from kd_lib.claims.measures import MEASURES, facts, when
from kd_lib.config import Run
from kd_lib.shapes import Outputs

PARAMETERS = 'scale = "demo"\nseeds = [1, 2]\nepochs = 2\n'
RUNS = f"""
import kd_lib as kd
common = { ({**TINY, "epochs": None})!r} | {{"epochs": epochs}}
teacher = kd.Run(network="resnet8-w4", **common)
runs = [kd.Run(network="resnet8-w2", teacher=teacher, method=m, seed=s, **common) for m in ("kd", "atkd_16") for s in seeds]
"""


def write_notebook(folder: Path, name: str, parameters: str, declared: str) -> None:
    def code(source: str, tag: str) -> dict:
        return {
            "cell_type": "code",
            "metadata": {"tags": [tag]},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }

    cells = [code(parameters, "parameters"), code(declared, "runs")]
    (folder / f"{name}.ipynb").write_text(
        json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )


@pytest.fixture
def notebooks(tmp_path) -> Path:
    write_notebook(tmp_path, "00_small", PARAMETERS, RUNS)
    (tmp_path / "scales.yaml").write_text("demo: {}\nsmoke:\n  all: {seeds: [1]}\n")
    return tmp_path


def claim(base: str = "kd", notebook: str = "00", **changes) -> Claim:
    fields = {
        "id": "one-beats-another", "sentence": "One beats another", "paper": "atkd", "place": "here", "unit": "points",
        "direction": 1, "compare": against("accuracy", base), "notebook": notebook, "picks": lambda run, p: True,
    }  # fmt: skip
    return Claim(**fields | changes)


def test_a_verdict_is_that_of_the_runs_in_the_store(notebooks):
    everyone = [student(method, seed=seed) for method in ("kd", "atkd_16") for seed in (1, 2)]
    accuracy = {(run.method, run.seed): runs.ensure(run).accuracy for run in everyone}
    evidence = Evidence("demo", notebooks)
    row, flipped = claims.verdicts(evidence, claims=[claim("kd"), claim("atkd_16")]).to_dict("records")
    differences = [accuracy["atkd_16", seed] - accuracy["kd", seed] for seed in (1, 2)]
    assert row["effect"] == pytest.approx(sum(differences) / 2)
    assert row["high"] - row["effect"] == pytest.approx(12.706204736 * abs(differences[0] - differences[1]) / 2)
    assert row["effect"] == -flipped["effect"]
    assert row["keys"].split() == [run.key for run in everyone]
    assert (row["found"], row["declared"], row["n"], row["scale"]) == (4, 4, 2, "demo")


def test_what_is_not_in_the_store_is_not_run_and_not_trained(notebooks, tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "empty"))
    (row,) = claims.verdicts(Evidence("demo", notebooks), claims=[claim()]).to_dict("records")
    assert (row["verdict"], row["found"], row["declared"], row["keys"]) == (NOT_RUN, 0, 4, "")
    assert row["note"] == "none of 4 runs is in the store"
    assert math.isnan(row["effect"])
    assert not (tmp_path / "empty" / "done").exists()
    runs.ensure(student("kd", seed=1))
    (row,) = claims.verdicts(Evidence("demo", notebooks), claims=[claim()]).to_dict("records")
    assert (row["verdict"], row["found"]) == (NOT_RUN, 1)
    assert "something beside it" in row["note"]
    runs.ensure(student("atkd_16", seed=1))
    (row,) = claims.verdicts(Evidence("demo", notebooks), claims=[claim()]).to_dict("records")
    assert (row["verdict"], row["found"], row["n"]) == (UNDECIDED, 2, 1)


def test_the_scale_and_the_notebook_say_which_runs(notebooks):
    assert len(Evidence("demo", notebooks).notebook("00").runs) == 4
    assert [run.seed for run in Evidence("smoke", notebooks).notebook("00").runs] == [1, 1]
    (row,) = claims.verdicts(Evidence("demo", notebooks), claims=[claim(notebook="12")]).to_dict("records")
    assert (row["verdict"], row["note"]) == (NOT_RUN, "there is no notebook 12")
    nobody = claim(picks=lambda run, p: False)
    (row,) = claims.verdicts(Evidence("demo", notebooks), claims=[nobody]).to_dict("records")
    assert row["note"] == "notebook 00 has no such runs at this scale"


def test_a_notebook_whose_data_are_elsewhere_leaves_its_claims_not_run(notebooks, monkeypatch):
    monkeypatch.setenv("KD_DATA", str(notebooks))
    write_notebook(notebooks, "01_cifar", PARAMETERS, 'import kd_lib as kd\nruns = [kd.Run(network="resnet8")]')
    (row,) = claims.verdicts(Evidence("demo", notebooks), claims=[claim(notebook="01")]).to_dict("records")
    assert (row["verdict"], row["note"]) == (NOT_RUN, "its data are not on this machine")
    write_notebook(notebooks, "02_broken", PARAMETERS, "runs = [1 / 0]")
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        claims.verdicts(Evidence("demo", notebooks), claims=[claim(notebook="02")])


def test_a_lack_that_a_measure_finds_is_told(notebooks, monkeypatch):
    def lacks(result):
        raise claims.readings.Missing("not on this data")

    runs.ensure(student("kd", seed=1))
    monkeypatch.setitem(MEASURES, "accuracy", lacks)
    (row,) = claims.verdicts(Evidence("demo", notebooks), claims=[claim()]).to_dict("records")
    assert (row["verdict"], row["note"]) == (NOT_RUN, "not on this data")


def test_every_claim_finds_its_runs_in_the_notebooks():
    evidence = Evidence("demo")
    for one in claims.CLAIMS:
        if one.id in claims.report.MEASURED or one.notebook not in evidence.notebooks:
            continue
        owner = evidence.notebook(one.notebook)
        picked = {run.key: run for run in owner.runs if one.picks(run, owner.parameters)}
        assert len(picked) >= 6, one.id
        assert len({run.seed for run in picked.values()}) >= 3, one.id


def test_how_student_and_teacher_came_together():
    taught = student("kd")
    step = {"schedule": "step"}
    assert when(taught) == "usual"
    assert when(TEACHER) == "alone"
    assert when(student("dml", teacher=None, peers=("resnet8-w4",))) == "together"
    assert when(taught.replace(epochs=8)) == "longer"
    assert when(curricula.takd(taught, ["resnet8-w4"])) == "assisted"
    assert when(curricula.early_stopped_teacher(taught, 0.5)) == when(curricula.eskd(taught)) == "early"
    assert when(curricula.rco_eei(taught, 2)) == when(curricula.rco(taught.replace(**step), 2)) == "route"
    assert when(curricula.sftn(taught)) == "sftn"
    assert when(curricula.sftn_finetuned(taught, epochs=1)) == "sftn_finetuned"


def test_runs_are_picked_by_what_they_change():
    plain, hot = student("kd"), student("kd", settings={"tau": 2.0})
    main = {"data": "digits100"}
    small = {name: value for name, value in TINY.items() if name != "data_settings"}
    whole = Run(network="resnet8-w2", teacher=Run(network="resnet8-w4", **small), method="kd", **small)
    assert not by("kd")(plain, main), "another size of the data set is not the main data"
    assert by("kd")(whole, main)
    assert not by("atkd")(whole, main)
    assert not by("kd")(whole, {"data": "cifar100"})
    assert not by("kd", settings=("tau",))(whole, main)
    assert by("kd", settings=("tau",))(whole.replace(settings={"tau": 2.0}), main)
    assert not by("kd")(whole.replace(settings=hot.settings), main)
    assert not by("kd", at=("assisted",))(whole, main)


def test_a_row_holds_the_facts_of_a_run():
    row = facts(student("pesf_kd", settings={"rank": 4}, seed=7))
    assert (row["method"], row["policy"], row["rank"], row["repeat"], row["teacher"]) == (
        "pesf_kd",
        "adapter",
        4,
        7,
        "resnet8-w4",
    )
    assert row["key"] == student("pesf_kd", settings={"rank": 4}, seed=7).key


# measures


def test_measures_are_those_of_the_tables():
    result = runs.ensure(student("ft_kd"))
    (row,) = tables.summary([result]).to_dict("records")
    for name in (
        "accuracy",
        "teacher_accuracy",
        "sharpness",
        "teacher_sharpness",
        "kl",
        "parameters",
        "teacher_parameters",
    ):
        assert MEASURES[name](result) == pytest.approx(row[name]), name
    assert MEASURES["gap"](result) == pytest.approx(abs(row["gap"]))
    assert MEASURES["signed_gap"](result) == pytest.approx(row["gap"])
    assert MEASURES["gap_tempered"](result) == pytest.approx(abs(row["gap_tempered"]))
    assert MEASURES["cka"](result) == pytest.approx(row["cka_embedding"])
    assert MEASURES["classes"](result) == 100


def test_measures_of_one_network():
    result = runs.ensure(TEACHER)
    z, y = result.outputs.logits, result.y
    log = result.metrics["sharpness"]
    assert MEASURES["softening"](result) == pytest.approx(log.iloc[0] - log.iloc[-1])
    assert MEASURES["entropy"](result) == metrics.entropy(z)
    mask = claims.measures.data.related_classes("digits100")
    shares = [100 * metrics.shared_class_mass(z, y, mask, tau=tau) for tau in (4.0, 1.0)]
    assert MEASURES["lost_structure"](result) == pytest.approx(shares[0] - shares[1])


def test_clusters_are_measured_in_the_embedding():
    y = torch.arange(60) % 3
    noise = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    tight, loose = (
        SimpleNamespace(outputs=Outputs(noise, 10 * torch.eye(3)[y][:, :2] + width * noise), y=y)
        for width in (0.1, 5.0)
    )
    assert MEASURES["silhouette"](tight) > 0.9 > MEASURES["silhouette"](loose)
    assert MEASURES["scatter"](tight) < 0.01 < MEASURES["scatter"](loose)


def test_a_collapsed_network_has_no_clusters_and_resembles_nothing():
    flat = SimpleNamespace(outputs=Outputs(torch.zeros(6, 3), torch.ones(6, 2)), y=torch.arange(6) % 3)
    flat.teacher_outputs = Outputs(torch.zeros(6, 3), torch.randn(6, 2))
    assert math.isnan(MEASURES["scatter"](flat))
    assert math.isnan(MEASURES["cka"](flat))


def test_theory_is_measured_on_real_logits():
    result = runs.ensure(student("kd"))
    assert 0 <= MEASURES["angle_to_regression"](result) < 0.01
    assert math.isfinite(MEASURES["order_error"](result))
    assert MEASURES["taylor_gap"](result) == metrics.taylor_gap(result.outputs.logits, result.teacher_outputs.logits)


def test_sizes_without_data_are_those_for_cifar():
    assert claims.measures.parameters("resnet20") == cost.parameters(models.build("resnet20")) == 278_324


# steps, printed cells, committed verdicts


def test_steps_are_timed_in_turns():
    table = timing.step_times(("kd", "ft_kd"), student="resnet8-w2", teacher="resnet8-w4", batch_size=4, rounds=2)
    assert table["method"].tolist() == ["kd", "ft_kd"] * 2
    assert table["repeat"].tolist() == [0, 0, 1, 1]
    assert (table["seconds"] > 0).all()
    row = claims.verdicts("demo", times=table, claims=[c for c in claims.CLAIMS if c.id == "ft-is-slow"]).iloc[0]
    assert (row["n"], row["over"], row["keys"]) == (2, "rounds", "")
    wide = table.pivot(index="repeat", columns="method", values="doublings")
    assert row["effect"] == pytest.approx((wide["ft_kd"] - wide["kd"]).mean())


def test_only_the_papers_protocol_stands_beside_print():
    paper = Run(network="resnet20", teacher=Run(network="resnet56"), method="kd")
    assert coverage.as_printed(paper)
    assert coverage.as_printed(paper.teacher)
    assert not coverage.as_printed(paper.replace(epochs=30))
    assert not coverage.as_printed(paper.replace(settings={"tau": 2.0}))
    assert not coverage.as_printed(student("kd"))
    assert not coverage.as_printed(curricula.early_stopped_teacher(paper))


class Pretended:
    """Evidence in which every run of the papers' pair is there."""

    notebooks = ("00",)

    def __init__(self, *declared: Run):
        self.declared = declared

    def notebook(self, number: str):
        return claims.evidence.Declared({}, self.declared)

    def numbers(self, run: Run, names) -> dict[str, float]:
        return dict.fromkeys(names, 70.0 + run.seed)


def test_printed_cells_of_the_same_networks_and_data_stand_beside_ours(monkeypatch):
    monkeypatch.setattr(Run, "key", property(lambda run: f"{run.network}-{run.method}-{run.seed}"))
    teacher = Run(network="resnet56")
    taught = [Run(network="resnet20", teacher=teacher, method="kd", seed=seed) for seed in (0, 1, 2)]
    table = coverage.beside_print(Pretended(teacher, *taught, taught[0].replace(epochs=30)))
    cell = table.set_index(["paper", "table", "row", "pair"]).loc[("pesf_v2", "1", "KD", "resnet56->resnet20")]
    assert (cell["printed"], cell["ours"], cell["n"]) == ("70.95", 71.0, 3)
    assert cell["keys"] == "resnet20-kd-0 resnet20-kd-1 resnet20-kd-2"
    teachers = table[table["row"] == "Teacher"]
    assert len(teachers) > 1
    assert set(teachers["pair"].str.partition("->")[0]) == {"resnet56"}
    assert not ((table["paper"] == "atkd") & (table["table"] == "11")).any(), "SVHN is other data"


def test_at_demo_scale_nothing_stands_beside_print():
    evidence = Pretended(*(student("kd", seed=seed) for seed in (1, 2)))
    assert coverage.beside_print(evidence).empty
    assert len(coverage.printed_cells()) > 400


def test_committed_verdicts_come_back_as_they_went(tmp_path):
    table = claims.printed()
    (tmp_path / "demo").mkdir()
    table.to_csv(tmp_path / "demo" / "claims.csv", index=False)
    back = claims.committed("demo", tmp_path)
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    assert claims.committed("short", tmp_path) is None


def test_a_committed_verdict_that_the_runs_do_not_say_is_named(tmp_path, monkeypatch, notebooks):
    for method in ("kd", "atkd_16"):
        for seed in (1, 2):
            runs.ensure(student(method, seed=seed))
    one = claim()
    monkeypatch.setattr(check, "CLAIMS", (one,))
    monkeypatch.setattr(check, "Evidence", lambda scale: Evidence(scale, notebooks))
    table = claims.verdicts(Evidence("demo", notebooks), claims=[one])
    figures = tmp_path / "figures" / "demo"
    figures.mkdir(parents=True)

    def compared(**changes):
        table.assign(**changes).to_csv(figures / "claims.csv", index=False)
        return check.compare_verdicts("demo", tmp_path / "figures")

    assert compared() == (1, [])
    count, (problem,) = compared(effect=table["effect"] + 0.1)
    assert count == 1
    assert "one-beats-another" in problem
    count, (problem,) = compared(keys=" ".join(table["keys"][0].split()[:2]))
    assert "other runs" in problem
    assert compared(keys="0123456789abcdef") == (0, []), "runs that are not here say nothing"
    assert check.compare_verdicts("paper", tmp_path / "figures") == (0, [])


def test_a_figure_without_its_numbers_is_named(tmp_path):
    (tmp_path / "demo").mkdir()
    for kind in ("svg", "png", "csv"):
        (tmp_path / "demo" / f"a.{kind}").write_text("x")
    assert check.incomplete_figures(tmp_path) == []
    (tmp_path / "demo" / "a.csv").unlink()
    (tmp_path / "demo" / "b.svg").write_text("x")
    assert check.incomplete_figures(tmp_path) == ["demo/a: no csv", "demo/b: no csv, png"]
    assert check.incomplete_figures() == []
