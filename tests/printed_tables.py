"""Cells of the papers' tables as printed, and exact arithmetic on them."""

from decimal import ROUND_HALF_UP, Decimal
from functools import cache

from kd_lib import papers

STANDARD, FRIENDLY = "accuracy, teacher=standard", "accuracy, teacher=SFTN"
NOT_METHODS = {"Teacher", "Student", "Student branch", "Average", "Best"}


@cache
def cells(paper: str, *tables: str) -> dict[tuple[str, str], Decimal]:
    """(row, column) -> the number as printed, exact."""
    frame = papers.load(paper, table=tables)
    return {(r, c): Decimal(v) for r, c, v in zip(frame["row"], frame["column"], frame["printed"], strict=True)}


def rounded(value: Decimal, places: str = "0.01") -> Decimal:
    return value.quantize(Decimal(places), ROUND_HALF_UP)


def mean(values) -> Decimal:
    values = list(values)
    return sum(values) / len(values)
