"""The verdicts on all claims as tables: from our runs, from the papers' printed numbers, and side by side."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kd_lib.claims import atkd, pesf, pesf_gap, sftn
from kd_lib.claims.claim import Claim
from kd_lib.claims.evidence import Evidence
from kd_lib.claims.readings import NOT_RUN, Missing, Reading, decide
from kd_lib.papers.comparison import TITLES
from kd_lib.paths import project_root

CLAIMS: tuple[Claim, ...] = (*atkd.CLAIMS, *pesf_gap.CLAIMS, *pesf.CLAIMS, *sftn.CLAIMS)
PRINTED = "printed"
MEASURED = {"ft-is-slow": ("kd", "ft_kd"), "adapter-is-cheap": ("kd", "pesf_kd")}
"""Claims that `timing.step_times` decides, and the methods they compare."""


def verdicts(
    scale: str | Evidence, *, times: pd.DataFrame | None = None, claims: Iterable[Claim] = CLAIMS
) -> pd.DataFrame:
    """The verdict on each claim at one scale, from the runs in the store. Never trains.

    Args:
        scale: "smoke", "demo", "short", "paper", or the evidence of one.
        times: from `step_times`, for the claims about cost; None leaves them "not run".
        claims: those that are looked at.
    Returns:
        One row a claim: claim, paper, place, sentence, verdict, text (the effect in words), effect, low, high (its 95%
        interval), n, over (what n counts), unit, direction, margin, scale, notebook, found and declared (runs), note (why
        nothing could be said), keys (of the runs that were looked at, with spaces between).
    """
    evidence = scale if isinstance(scale, Evidence) else Evidence(scale)
    return pd.DataFrame([_row(claim, evidence.scale, *_ours(claim, evidence, times)) for claim in claims])


def printed(claims: Iterable[Claim] = CLAIMS) -> pd.DataFrame:
    """The same table from the papers' printed numbers: pairs of networks, tables or methods in the place of seeds."""
    rows = []
    for claim in claims:
        reading = claim.printed() if claim.printed is not None else None
        rows.append(_row(claim, PRINTED, reading, {"note": "" if reading else "no such numbers are printed"}))
    return pd.DataFrame(rows)


def committed(scale: str, folder: Path | None = None) -> pd.DataFrame | None:
    """The verdicts that stand in `figures/<scale>/claims.csv`; None where there is no such file."""
    path = (folder or project_root() / "figures") / scale / "claims.csv"
    if not path.exists():
        return None
    numbers = dict.fromkeys(("effect", "low", "high", "margin"), "")
    return pd.read_csv(path, dtype={"notebook": str}, keep_default_na=False, na_values=numbers)


def page(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The one-page table: a line for each claim with its source, and a column for each table of verdicts, filled by `cell`."""
    first = next(iter(tables.values()))
    lines = (
        first[["claim", "sentence"]]
        .assign(source=first["paper"].map(TITLES) + ", " + first["place"])
        .set_index("claim")
    )
    for name, table in tables.items():
        lines[name] = table.set_index("claim").apply(cell, axis=1)
    return lines.fillna(NOT_RUN).set_index("sentence").rename_axis("claim")


def cell(row: pd.Series) -> str:
    """A verdict with its effect: "holds: +2.6 [0.9, 4.3] points, 3 seeds"."""
    over = row["over"].removesuffix("s") if row["n"] == 1 else row["over"]
    return NOT_RUN if row["verdict"] == NOT_RUN else f"{row['verdict']}: {row['text']}, {row['n']} {over}"


def _text(reading: Reading | None, unit: str) -> str:
    """An effect with its interval: "+2.6 [0.9, 4.3] points"."""
    if reading is None:
        return ""
    if not math.isfinite(reading.low):
        return f"{reading.effect:+.{_digits(reading.effect)}f} {unit}, no interval"
    digits = _digits(max((reading.high - reading.low) / 2, abs(reading.effect) / 100))
    return f"{reading.effect:+.{digits}f} [{reading.low:.{digits}f}, {reading.high:.{digits}f}] {unit}"


def _digits(size: float) -> int:
    """Decimals that show two digits of a number of this size."""
    return 1 if size == 0 else min(4, max(0, 1 - math.floor(math.log10(abs(size)))))


def _ours(claim: Claim, evidence: Evidence, times: pd.DataFrame | None) -> tuple[Reading | None, dict[str, Any]]:
    """The reading of our own numbers, and where they come from."""
    if claim.id in MEASURED:
        if times is None:
            return None, {"note": "no step was timed"}
        table = times[times["method"].isin(MEASURED[claim.id])]
        return claim.compare(table)._replace(over="rounds"), {}
    source: dict[str, Any] = {}
    try:
        table, declared, problem = evidence.pick(claim)
        keys = [] if table.empty else table["key"].tolist()
        source = {"keys": " ".join(keys), "found": len(keys), "declared": declared}
        if not keys:
            return None, source | {"note": problem or f"none of {declared} runs is in the store"}
        return claim.compare(table), source
    except Missing as lack:
        return None, source | {"note": str(lack)}


def _row(claim: Claim, scale: str, reading: Reading | None, source: Mapping[str, Any]) -> dict[str, Any]:
    known = reading or Reading(math.nan, math.nan, math.nan, 0, "")
    verdict = NOT_RUN if reading is None else decide(reading, claim.direction, claim.margin)
    return {
        "claim": claim.id,
        "paper": claim.paper,
        "place": claim.place,
        "sentence": claim.sentence,
        "verdict": verdict,
        "text": _text(reading, claim.unit),
        **known._asdict(),
        "unit": claim.unit,
        "direction": claim.direction,
        "margin": math.nan if claim.margin is None else claim.margin,
        "scale": scale,
        "notebook": claim.notebook,
        **{"found": 0, "declared": 0, "note": "", "keys": ""},
        **source,
    }
