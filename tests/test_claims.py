"""The verdicts: for every claim, data for which it holds, the same data flipped, and data that cannot tell."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kd_lib import claims, figures, papers
from kd_lib.claims import FAILS, HOLDS, NOT_RUN, UNDECIDED, Reading, compare, decide, report
from kd_lib.claims.measures import MEASURES
from kd_lib.claims.readings import Missing, mean_interval, slope_interval

NOISE = (0.02, -0.03, 0.01)  # of three seeds
T_2, T_4 = 4.302652729911275, 2.7764451051977987  # 97.5% points of Student's t, from a printed table

PAIR = {"network": "s", "teacher": "t"}

Example = Callable[[float], pd.DataFrame]


def arms(value: str, base: str, *others: str, by: str = "method", **same: object) -> Example:
    """Three seeds of a baseline and of what lies d above it."""

    def table(d: float) -> pd.DataFrame:
        rows = [
            {"repeat": seed, by: name, value: 5 + seed + (name != base) * (d + noise), **same}
            for seed, noise in enumerate(NOISE)
            for name in (base, *others)
        ]
        return pd.DataFrame(rows)

    return table


def slope(value: str, x: str, at: tuple[float, ...], *, doubling: bool = False, **same: object) -> Example:
    """Three seeds of a value that rises by d with x."""

    def table(d: float) -> pd.DataFrame:
        rows = [
            {"repeat": seed, x: place, value: 5 + (d + noise) * (math.log2(place) if doubling else place), **same}
            for seed, noise in enumerate(NOISE)
            for place in at
        ]
        return pd.DataFrame(rows)

    return table


def networks(value: str, *, trend: bool) -> Example:
    """Four networks, each twice as large as the one before."""

    def table(d: float) -> pd.DataFrame:
        rows = [
            {"repeat": 0, "network": f"n{i}", "parameters": 1000 * 2**i, value: (i if trend else 1) * d + noise}
            for i, noise in enumerate((*NOISE, -0.02))
        ]
        return pd.DataFrame(rows)

    return table


def each(value: str) -> Example:
    return lambda d: pd.DataFrame({"repeat": [0, 1, 2], value: [d + noise for noise in NOISE]})


def correlated(d: float) -> pd.DataFrame:
    rows = [
        {"repeat": seed, "method": f"m{i}", "gap": i + noise, "accuracy": 60 + d * i + (d == 0) * (i * 7 % 5)}
        for seed, noise in enumerate(NOISE)
        for i in range(9)
    ]
    return pd.DataFrame(rows)


def narrowed(d: float) -> pd.DataFrame:
    """A student alone 5 below its teacher, and a taught one whose gap is d wider."""
    rows = [{"repeat": seed, "method": "alone", "network": "s", "sharpness": 10.0} for seed in range(3)]
    rows += [
        {"repeat": seed, "method": "kd", "network": "s", "sharpness": 10 - d - noise, "teacher_sharpness": 15.0}
        for seed, noise in enumerate(NOISE)
    ]
    return pd.DataFrame(rows)


def percent_off(d: float) -> pd.DataFrame:
    base = [2.0, 3.0, 4.0]
    taylor = [b * (1 + (d + noise) / 100) for b, noise in zip(base, NOISE, strict=True)]
    return pd.DataFrame({"repeat": range(3), "signed_gap": base, "taylor_gap": taylor})


def adjusted(d: float) -> pd.DataFrame:
    parts = [
        arms("accuracy", plain, name)(d)
        for name, plain in (("kd_adjusted", "kd"), ("ft_kd", "ft_kd_plain"), ("pesf_kd", "pesf_kd_plain"))
    ]
    return pd.concat(parts)


def by_classes(d: float) -> pd.DataFrame:
    parts = [
        arms("accuracy", "kd", "pesf_kd", classes=c, **PAIR)(1 + d * math.log2(c) + c % 3 / 50) for c in (2, 5, 20)
    ]
    return pd.concat(parts)


SIZES = (1000, 4000, 16000)
EXAMPLES: dict[str, Example] = {
    "oversized-teacher": slope("accuracy", "teacher_parameters", SIZES, doubling=True, network="s"),
    "sharper-with-size": networks("sharpness", trend=True),
    "surer-with-size": networks("entropy", trend=True),
    "gap-grows": slope("gap_tempered", "teacher_parameters", SIZES, doubling=True, network="s"),
    "atkd-narrows-gap": arms("gap_tempered", "kd", "atkd_16", **PAIR),
    "atkd-beats-kd": arms("accuracy", "kd", "atkd_16", **PAIR),
    "atkd-likes-size": slope("accuracy", "teacher_parameters", SIZES, doubling=True, network="s"),
    "early-teacher-softer": networks("softening", trend=False),
    "early-teacher-helps": arms("accuracy", "usual", "early", by="when"),
    "assistant-helps": arms("accuracy", "usual", "assisted", by="when"),
    "taylor-formula": percent_off,
    "taylor-orders": each("order_error"),
    "hot-kd-is-regression": each("angle_to_regression"),
    "kd-narrows-gap": narrowed,
    "hotter-wider-gap": slope("gap", "tau", (1.0, 2.0, 4.0), doubling=True),
    "small-gap-good-temperature": slope("accuracy", "gap", (0.5, 1.0, 2.0)),
    "small-gap-good-method": correlated,
    "ft-narrows-gap": arms("gap", "kd", "ft_kd"),
    "pesf-narrows-gap": arms("gap", "kd", "pesf_kd"),
    "pesf-lowers-kl": arms("kl", "kd", "pesf_kd"),
    "pesf-raises-cka": arms("cka", "kd", "pesf_kd"),
    "pesf-separates-classes": arms("silhouette", "kd", "pesf_kd"),
    "pesf-tightens-classes": arms("scatter", "kd", "pesf_kd"),
    "heat-erases-structure": networks("lost_structure", trend=False),
    "adapter-keeps-structure": arms("teacher_structure", "kd", "pesf_kd"),
    "ft-beats-kd": arms("accuracy", "kd", "ft_kd"),
    "pesf-beats-kd": arms("accuracy", "kd", "pesf_kd"),
    "adjustment-helps": adjusted,
    "rank-hardly-matters": slope("accuracy", "rank", (16, 32, 64, 96), doubling=True),
    "more-kd-helps": slope("accuracy", "kd_weight", (0.3, 0.5, 0.9)),
    "adapter-adds": arms("accuracy", "frozen", "adapter", by="policy", method="pkt"),
    "more-classes-more-gain": by_classes,
    "online-beats-offline": arms("accuracy", "kd", "dml", "kdcl_naive"),
    "ft-is-slow": arms("doublings", "kd", "ft_kd"),
    "adapter-is-cheap": arms("doublings", "kd", "pesf_kd"),
    "friendly-teacher-helps": arms("accuracy", "usual", "sftn", by="when", network="s", method="kd"),
    "teacher-accuracy-misleads": slope("accuracy", "teacher_accuracy", (79.0, 81.0, 84.0), network="s"),
    "friendly-teacher-closer": arms("kl", "usual", "sftn", by="when", network="s", method="kd"),
    "friendly-teacher-alike": arms("cka", "usual", "sftn", by="when", network="s", method="kd"),
    "fine-tuned-as-good": arms("accuracy", "sftn", "sftn_finetuned", by="when"),
    "route-helps": arms("accuracy", "usual", "route", by="when"),
    "route-beats-patience": arms("accuracy", "longer", "route", by="when"),
}
every_claim = pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.id)


@pytest.fixture(scope="module")
def printed() -> pd.DataFrame:
    return claims.printed()


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


# comparisons, against other implementations


def test_paired_differences_are_those_of_the_figures():
    table = EXAMPLES["atkd-beats-kd"](1.0)
    reading = compare.against("accuracy", "kd")(table)
    row = figures.paired_difference(table.rename(columns={"repeat": "seed"}), "method", "accuracy", baseline="kd").iloc[
        0
    ]
    assert reading.effect == pytest.approx(row["mean"])
    assert (reading.high - reading.low) / 2 == pytest.approx(row["half_width"])
    by_hand = np.array(NOISE) + 1
    assert reading.high == pytest.approx(by_hand.mean() + T_2 * by_hand.std(ddof=1) / math.sqrt(3))


def test_groups_are_averaged_within_a_seed_and_lonely_seeds_left_out():
    rows = [("kd", "a", 0, 1.0), ("x", "a", 0, 2.0), ("kd", "b", 0, 1.0), ("x", "b", 0, 5.0), ("x", "a", 1, 9.0)]
    table = pd.DataFrame(rows, columns=["method", "teacher", "repeat", "accuracy"])
    reading = compare.against("accuracy", "kd", within=["teacher"])(table)
    assert (reading.effect, reading.n) == (2.5, 1)
    assert math.isnan(reading.low)


def test_two_runs_in_one_place_are_an_error_and_not_averaged():
    table = pd.concat([EXAMPLES["atkd-beats-kd"](1.0)] * 2)
    with pytest.raises(ValueError, match="two runs stand for one repeat"):
        compare.against("accuracy", "kd")(table)


def test_the_slope_over_networks_is_the_textbooks():
    x, y = [1.0, 2.0, 3.0, 5.0, 8.0, 9.0], [2.0, 1.0, 4.0, 4.0, 9.0, 7.0]
    reading, book = slope_interval(x, y, "networks"), stats.linregress(x, y)
    assert reading.effect == pytest.approx(book.slope)
    assert reading.high - reading.effect == pytest.approx(T_4 * book.stderr)
    assert math.isnan(slope_interval([1, 2], [1, 2], "networks").low)
    with pytest.raises(Missing):
        slope_interval([1, 1, 1], [1, 2, 3], "networks")


def test_rank_correlation_is_spearmans_within_seeds():
    rng = np.random.default_rng(1)
    rows = [{"repeat": s, "method": f"m{i}", "gap": g, "accuracy": -g + a} for s in range(2) for i in range(12)
            for g, a in [rng.normal(size=2)]]  # fmt: skip
    table = pd.DataFrame(rows)
    reading = compare.rank_correlation("gap", "accuracy")(table)
    by_seed = [stats.spearmanr(part["gap"], part["accuracy"]).statistic for _, part in table.groupby("repeat")]
    assert reading.effect == pytest.approx(np.mean(by_seed))
    assert -1 <= reading.low < reading.effect < reading.high <= 1
    assert reading == compare.rank_correlation("gap", "accuracy")(table), "the bootstrap is repeatable"
    assert reading.n == 12


def test_the_largest_teacher_is_compared_with_the_mean_of_the_others():
    table = pd.DataFrame({"repeat": [0] * 3, "size": [1, 2, 9], "accuracy": [60.0, 70.0, 61.0], "network": "s"})
    assert compare.rest("accuracy", "size", within=["network"])(table).effect == -4.0


def test_a_gap_counts_by_its_size():
    table = pd.DataFrame(
        {
            "repeat": [0, 0],
            "method": ["alone", "kd"],
            "network": "s",
            "sharpness": [10.0, 17.0],
            "teacher_sharpness": [np.nan, 15.0],
        }
    )
    assert compare.narrowing()(table).effect == 2.0 - 5.0


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


def test_mean_interval_of_nothing():
    with pytest.raises(Missing, match="no seeds"):
        mean_interval([])
