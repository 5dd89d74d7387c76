"""The verdicts: for every claim, data for which it holds, the same data flipped, and data that cannot tell."""

import math

import pandas as pd
import pytest
from toy_claims import EXAMPLES, NOISE

from kd_lib import claims, papers
from kd_lib.claims import FAILS, HOLDS, UNDECIDED, Reading, decide
from kd_lib.claims.measures import MEASURES
from kd_lib.claims.readings import Missing

every_claim = pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.id)


def verdict(claim: claims.Claim, d: float) -> str:
    return decide(claim.compare(EXAMPLES[claim.id](d)), claim.direction, claim.margin)


def test_every_claim_has_an_example_and_one_name():
    assert list(EXAMPLES) == [claim.id for claim in claims.CLAIMS]


@every_claim
def test_flipping_the_data_flips_the_verdict(claim):
    if claim.direction:
        assert verdict(claim, float(claim.direction)) == HOLDS
        assert verdict(claim, float(-claim.direction)) == FAILS
        assert verdict(claim, 0.0) == UNDECIDED
    else:
        assert verdict(claim, 0.0) == (UNDECIDED if claim.margin < max(NOISE) else HOLDS)
        assert verdict(claim, 3 * claim.margin + 1) == verdict(claim, -3 * claim.margin - 1) == FAILS
        assert verdict(claim, claim.margin) == UNDECIDED


def test_what_is_about_zero_without_any_spread_holds():
    (claim,) = (claim for claim in claims.CLAIMS if claim.id == "hot-kd-is-regression")
    table = pd.DataFrame({"repeat": [0, 1, 2], "angle_to_regression": [2e-4, 3e-4, 2e-4]})
    assert decide(claim.compare(table), 0, claim.margin) == HOLDS


@every_claim
def test_without_its_runs_a_claim_is_not_run(claim):
    whole = EXAMPLES[claim.id](1.0)
    with pytest.raises(Missing):
        claim.compare(whole.iloc[:0])
    with pytest.raises(Missing):
        claim.compare(pd.DataFrame())


@every_claim
def test_a_single_repetition_decides_nothing(claim):
    table = EXAMPLES[claim.id](float(claim.direction or 9.0))
    if claim.id == "small-gap-good-method":
        with pytest.raises(Missing, match="4 of them"):
            claim.compare(table[table["method"].isin(["m0", "m1", "m2"])])
        return
    over_networks = "network" in table and table["network"].nunique() > 1
    some = table[table["network"].isin(["n0", "n1"])] if over_networks else table[table["repeat"] == 0]
    if over_networks and "parameters" not in claim.compare.columns:
        some = some[some["network"] == "n0"]
    assert decide(claim.compare(some), claim.direction, claim.margin) == UNDECIDED


@every_claim
def test_a_claim_measures_what_can_be_measured(claim):
    facts = {"rank", "kd_weight", "tau"} | {"doublings"}
    assert set(claim.compare.columns) <= set(MEASURES) | facts
    assert claim.paper in papers.PAPERS
    assert len(claim.sentence) <= 100
    assert claim.direction or claim.margin > 0


@pytest.mark.parametrize(
    ("low", "high", "direction", "margin", "word"),
    [
        (0.1, 2, 1, None, HOLDS),
        (0.1, 2, -1, None, FAILS),
        (-2, -0.1, -1, None, HOLDS),
        (-2, -0.1, 1, None, FAILS),
        (-0.1, 2, 1, None, UNDECIDED),
        (-0.1, 2, -1, None, UNDECIDED),
        (0, 2, 1, None, UNDECIDED),
        (-0.3, 0.2, 0, 0.5, HOLDS),
        (-0.6, 0.2, 0, 0.5, UNDECIDED),
        (0.6, 0.9, 0, 0.5, FAILS),
        (-0.9, -0.6, 0, 0.5, FAILS),
        (math.nan, math.nan, 1, None, UNDECIDED),
        (math.nan, math.nan, 0, 0.5, UNDECIDED),
    ],
)
def test_verdicts_by_hand(low, high, direction, margin, word):
    assert decide(Reading(0.0, low, high, 3), direction, margin) == word


def test_a_claim_is_directed_or_has_a_margin():
    (some, *_) = claims.CLAIMS
    for bad in ({"direction": 0, "margin": None}, {"direction": 1, "margin": 0.5}, {"direction": 2}):
        with pytest.raises(ValueError, match="direction"):
            claims.Claim(**{**vars(some), **bad})
