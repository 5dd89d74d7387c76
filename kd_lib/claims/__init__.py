"""The four papers' claims, each with the comparison that decides it. Verdicts are computed, here and nowhere else.

>>> table = verdicts("demo")  # from the runs in the store, which this never trains
>>> table[["sentence", "verdict", "effect", "low", "high", "unit"]]

A claim names a comparison and the runs it is made of: those of one notebook that fit. What a notebook declares is read from the
notebook itself, at any scale, so no run is described twice.
"""

from kd_lib.claims.check import compare_verdicts, incomplete_figures
from kd_lib.claims.claim import Claim
from kd_lib.claims.coverage import beside_print
from kd_lib.claims.evidence import Evidence
from kd_lib.claims.readings import FAILS, HOLDS, NOT_RUN, UNDECIDED, VERDICTS, Reading, decide
from kd_lib.claims.report import CLAIMS, cell, committed, page, printed, verdicts
from kd_lib.claims.timing import step_times

__all__ = [
    "CLAIMS",
    "FAILS",
    "HOLDS",
    "NOT_RUN",
    "UNDECIDED",
    "VERDICTS",
    "Claim",
    "Evidence",
    "Reading",
    "beside_print",
    "cell",
    "committed",
    "compare_verdicts",
    "decide",
    "incomplete_figures",
    "page",
    "printed",
    "step_times",
    "verdicts",
]
