"""`Claim`: a sentence of a paper with the comparison that decides it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kd_lib.claims.compare import Comparison
from kd_lib.claims.measures import when
from kd_lib.claims.readings import Reading
from kd_lib.config import Run

Picks = Callable[[Run, Mapping[str, Any]], bool]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A testable claim.

    Attributes:
        id: a short name.
        sentence: the claim in our words.
        paper, place: where it is made; `paper` is one of `papers.PAPERS`.
        unit: of the effect.
        direction: 1 where the claim says that the effect is above zero, -1 below, 0 about zero.
        margin: for direction 0, how far from zero still counts as "about".
        compare: from a table of runs to the effect and its interval.
        notebook: the number of the one whose runs decide; "" where measurements outside of the run store do.
        picks: which of its runs, given a run and the notebook's parameters.
        printed: the same effect in the papers' printed numbers; None where they print none.
    """

    id: str
    sentence: str
    paper: str
    place: str
    unit: str
    direction: int
    margin: float | None = None
    compare: Comparison
    notebook: str
    picks: Picks = lambda run, parameters: True
    printed: Callable[[], Reading] | None = None

    def __post_init__(self) -> None:
        if self.direction not in (-1, 0, 1) or (self.direction == 0) != (self.margin is not None):
            raise ValueError(f"claim {self.id!r}: direction is 1 or -1 without a margin, or 0 with one")


def by(*methods: str, settings: tuple[str, ...] = (), at: tuple[str, ...] = ("usual", "alone", "together")) -> Picks:
    """Picks the main data's runs of some methods, with exactly these settings changed, come about in one of these ways.

    Args:
        methods: names in `METHODS`.
        settings: names of the settings that the runs change, all of them.
        at: entries of `measures.when`.
    """

    def picks(run: Run, parameters: Mapping[str, Any]) -> bool:
        main = run.data == parameters.get("data", run.data) and not run.data_settings
        return main and run.method in methods and set(run.settings) == set(settings) and when(run) in at

    return picks
