"""The verdicts on the papers' printed numbers, and the page that shows all verdicts."""

import math

import numpy as np
import pandas as pd
import pytest
from toy_claims import T_4

from kd_lib import claims, papers
from kd_lib.claims import FAILS, HOLDS, NOT_RUN, UNDECIDED, Reading, report


@pytest.fixture(scope="module")
def printed() -> pd.DataFrame:
    return claims.printed()


# the papers' printed numbers


def test_printed_gains_of_pesf_kd_by_hand(printed):
    table = printed.set_index("claim")
    gains = np.array([71.84 - 70.95, 74.23 - 73.08, 74.74 - 73.36, 74.67 - 73.98, 70.55 - 69.20])
    row = table.loc["pesf-beats-kd"]
    assert row["effect"] == pytest.approx(gains.mean())
    assert row["low"] == pytest.approx(gains.mean() - T_4 * gains.std(ddof=1) / math.sqrt(5))
    assert (row["verdict"], row["n"], row["over"], row["scale"]) == (HOLDS, 5, "pairs", "printed")
    # v2 Table 1: KDCL -0.84, -0.21, +0.63, -0.82 and DML +0.45, -0.87, +0.82, -0.12
    assert table.loc["online-beats-offline", "effect"] == pytest.approx(-0.96 / 8)
    assert table.loc["online-beats-offline", "verdict"] == UNDECIDED
    # ATKD Table 2 against parameters: sharper throughout
    assert table.loc["sharper-with-size", "verdict"] == HOLDS
    assert table.loc["early-teacher-softer", "effect"] == pytest.approx(
        np.mean([13.03 - 13.11, 13.68 - 13.84, 14.29 - 14.45, 14.77 - 15.37, 15.69 - 16.13])
    )
    assert table.loc["oversized-teacher", "effect"] == pytest.approx(
        np.mean(
            [
                67.1 - np.mean([67.4, 68.2, 68, 67.5]),
                67.2 - np.mean([68.22, 67.88, 68.27, 67.80]),
                96.59 - np.mean([96.57, 96.54, 96.61]),
            ]
        )
    )
    assert table.loc["more-classes-more-gain", "n"] == 8
    assert table.loc["friendly-teacher-helps", "n"] == 8
    assert table.loc["teacher-accuracy-misleads", "n"] == 8


def test_what_is_not_printed_is_not_run(printed):
    table = printed.set_index("claim")
    unprinted = [claim.id for claim in claims.CLAIMS if claim.printed is None]
    assert set(table.index[table["verdict"] == NOT_RUN]) == set(unprinted)
    assert (table.loc[unprinted, "note"] == "no such numbers are printed").all()


def test_flipping_a_printed_table_flips_its_verdict(printed, monkeypatch):
    true = papers.load

    def mirrored(*args, **kwargs):
        return true(*args, **kwargs).assign(value=lambda frame: -frame["value"])

    decided = printed.query("verdict == 'holds' and direction != 0")["claim"].tolist()
    monkeypatch.setattr(papers, "load", mirrored)
    signed = [name for name in decided if name != "ft-is-slow"]  # the logarithm of a negative time
    flipped = claims.printed([claim for claim in claims.CLAIMS if claim.id in signed])
    assert len(flipped) > 8
    assert set(flipped["verdict"]) == {FAILS}


# the page


def test_a_cell_says_verdict_effect_interval_and_number():
    row = pd.Series(
        {"verdict": HOLDS, "text": report._text(Reading(2.63, 0.91, 4.34, 3), "points"), "n": 3, "over": "seeds"}
    )
    assert claims.cell(row) == "holds: +2.6 [0.9, 4.3] points, 3 seeds"
    assert claims.cell(row.replace(3, 1)).endswith(", 1 seed")
    assert claims.cell(row.replace(HOLDS, NOT_RUN)) == NOT_RUN


@pytest.mark.parametrize(
    ("reading", "text"),
    [
        (Reading(-0.01443, -0.0212, -0.0076, 3), "-0.0144 [-0.0212, -0.0076] nats"),
        (Reading(-100.8, -101.9, -99.8, 3), "-100.8 [-101.9, -99.8] nats"),
        (Reading(0.3, -7.5, 8.1, 3), "+0.3 [-7.5, 8.1] nats"),
        (Reading(1.6, math.nan, math.nan, 1), "+1.6 nats, no interval"),
        (Reading(0.0, 0.0, 0.0, 3), "+0.0 [0.0, 0.0] nats"),
        (None, ""),
    ],
)
def test_effects_in_words(reading, text):
    assert report._text(reading, "nats") == text


def test_the_page_has_a_column_a_scale_and_a_line_a_claim(printed):
    page = claims.page({"printed": printed, "demo": printed.iloc[:1]})
    assert list(page.columns) == ["source", "printed", "demo"]
    assert page["source"].iloc[0] == "ATKD, section 1, Table 1"
    assert page.index.tolist() == [claim.sentence for claim in claims.CLAIMS]
    assert (page["demo"].iloc[1:] == NOT_RUN).all()
