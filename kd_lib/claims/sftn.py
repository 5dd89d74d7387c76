"""The claims of SFTN, "Learning Student-Friendly Teacher Networks for Knowledge Distillation"."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from kd_lib.claims.claim import Claim, by
from kd_lib.claims.compare import against, average, trend
from kd_lib.claims.measures import when
from kd_lib.claims.printed import cells, read
from kd_lib.claims.readings import Reading
from kd_lib.config import Run

TEACHERS = ("standard", "SFTN", "SFTN-FT")
BRANCHES = [f"branch_tau={tau}" for tau in (1, 5, 10, 15, 20)], [f"branch_kl_weight={w}" for w in (1, 3, 6, 10)]


def _own_friendly(run: Run) -> bool:
    """Whether the teacher was trained with branches of this student."""
    return run.teacher is not None and run.teacher.method_settings.get("student") == run.network


def _as_in_the_paper(run: Run, parameters: Mapping[str, Any]) -> bool:
    """The students of the standard teacher and of the friendly one with SFTN's weight 3 and temperature 1."""
    if when(run) != "sftn":
        return when(run) == "usual"
    settings = run.teacher.method_settings
    return _own_friendly(run) and (settings["branch_kl_weight"], settings["tau"]) == (3.0, 1.0)


def _friendly_kd(run: Run, parameters: Mapping[str, Any]) -> bool:
    return run.method == "kd" and when(run) == "sftn" and _own_friendly(run)


def _with_fine_tuned(run: Run, parameters: Mapping[str, Any]) -> bool:
    """The first student's friendly teachers, made from the start and by fine-tuning; the others have none of the latter."""
    usual = when(run) == "sftn" and _as_in_the_paper(run, parameters)
    return (run.method, run.network) == ("kd", parameters["students"][0]) and (usual or when(run) == "sftn_finetuned")


def _deltas() -> Reading:
    column = "accuracy delta, SFTN to standard"
    return read(average("value"), cells("sftn", ["1", "2"], {column: "value"}), "pairs")


def _by_teacher(table: str, metric: str, base: str, other: str) -> Reading:
    """One kind of teacher against another, over the methods of a table."""
    parts = [
        cells("sftn", table, {f"{metric}, teacher={kind}": "value"}, repeat="row").assign(method=kind)
        for kind in (base, other)
    ]
    both = pd.concat(parts)
    return read(against("value", base), both[both["row"] != "Teacher"], "methods")


def _teacher_and_student() -> Reading:
    """Slope of the students' accuracies over their teachers', within each pair of networks and table."""
    parts = []
    for table, variants in zip(("5", "6"), BRANCHES, strict=True):
        for variant in variants:
            found = cells("sftn", table, {f"accuracy, teacher=SFTN, {variant}": "value"})
            wide = found.pivot(index="repeat", columns="row", values="value").reset_index()
            parts.append(wide.rename(columns={"Teacher": "teacher_accuracy", "KD": "accuracy"}))
    return read(trend("accuracy", "teacher_accuracy"), pd.concat(parts), "pairs")


def _printed_route(row: str) -> Reading:
    found = cells("sftn", "4", {"accuracy": "accuracy"}, {"KD": "KD", row: row})
    return read(against("accuracy", "KD"), found, "pairs")


CLAIMS = (
    Claim(
        id="friendly-teacher-helps",
        sentence="A student-friendly teacher makes a better student",
        paper="sftn",
        place="Tables 1 and 2",
        unit="points",
        direction=1,
        compare=against("accuracy", "usual", by="when", within=["network", "method"]),
        notebook="10",
        picks=_as_in_the_paper,
        printed=_deltas,
    ),
    Claim(
        id="teacher-accuracy-misleads",
        sentence="Among student-friendly teachers, the more accurate make worse students",
        paper="sftn",
        place="section 4.4, Tables 5 and 6",
        unit="points a point",
        direction=-1,
        compare=trend("accuracy", "teacher_accuracy", within=["network"]),
        notebook="10",
        picks=_friendly_kd,
        printed=_teacher_and_student,
    ),
    Claim(
        id="friendly-teacher-closer",
        sentence="A student-friendly teacher and its student are closer: KL",
        paper="sftn",
        place="section 4.7, Table 10",
        unit="nats",
        direction=-1,
        compare=against("kl", "usual", by="when", within=["network", "method"]),
        notebook="10",
        picks=_as_in_the_paper,
        printed=lambda: _by_teacher("10", "KL", "standard", "SFTN"),
    ),
    Claim(
        id="friendly-teacher-alike",
        sentence="A student-friendly teacher and its student are more alike: CKA of embeddings",
        paper="sftn",
        place="section 4.7, Table 10",
        unit="CKA",
        direction=1,
        compare=against("cka", "usual", by="when", within=["network", "method"]),
        notebook="10",
        picks=_as_in_the_paper,
        printed=lambda: _by_teacher("10", "CKA", "standard", "SFTN"),
    ),
    Claim(
        id="fine-tuned-as-good",
        sentence="A teacher made friendly by fine-tuning is about as good (to half a point)",
        paper="sftn",
        place="section 4.6, Table 9",
        unit="points",
        direction=0,
        margin=0.5,
        compare=against("accuracy", "sftn", by="when"),
        notebook="10",
        picks=_with_fine_tuned,
        printed=lambda: _by_teacher("9", "accuracy", "SFTN", "SFTN-FT"),
    ),
    Claim(
        id="route-helps",
        sentence="Following the teacher's route (RCO, 4 times the epochs) makes a better student",
        paper="sftn",
        place="Table 4, row RCO-EEI-4",
        unit="points",
        direction=1,
        compare=against("accuracy", "usual", by="when"),
        notebook="11",
        picks=by("kd", at=("usual", "route")),
        printed=lambda: _printed_route("RCO-EEI-4"),
    ),
    Claim(
        id="route-beats-patience",
        sentence="It does so against KD of as many epochs, too",
        paper="sftn",
        place="a control that Table 4 lacks",
        unit="points",
        direction=1,
        compare=against("accuracy", "longer", by="when"),
        notebook="11",
        picks=by("kd", at=("longer", "route")),
    ),
)
