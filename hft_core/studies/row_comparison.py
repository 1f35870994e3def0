"""Compare two finished runs row by row, from the answers that both kept: exact McNemar, and a paired bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hft_core.errors import UsageError
from hft_core.runs.answers import Answers
from hft_core.studies import statistics
from hft_core.studies.slices import RIGHT, RowScores, row_scores
from hft_core.studies.statistics import BETTER, NO_DIFFERENCE, WORSE


@dataclass(frozen=True, kw_only=True)
class RowComparison:
    """One run against another on the rows of a split."""

    score: str
    """`right answers`, `absolute error` or `loss`."""
    rows: int
    mean: float
    other: float
    """Mean scores of the run and of the other one."""
    low: float
    high: float
    """95 % interval of the mean difference, by a paired bootstrap over rows, or over groups of rows."""
    p: float | None
    """Of the exact McNemar test over rows; None where scores are no right answers, or rows are in groups."""
    only_one: int
    only_other: int
    """Rows that only the run, and only the other one, has right; 0 where scores are no right answers."""

    @property
    def verdict(self) -> str:
        """What the interval says and, where there is one, the exact test too."""
        shown = not self.low <= 0 <= self.high and (self.p is None or self.p < 1 - statistics.LEVEL)
        if not shown:
            return NO_DIFFERENCE
        return BETTER if (self.mean > self.other) == (self.score == RIGHT) else WORSE


def compare_rows(one: Answers, other: Answers, groups: dict[tuple[str, int], str] | None = None) -> RowComparison:
    """Compare the answers of two runs on the same rows; `groups`: the group of a row by its place, such as the document
    that it is from, since rows of one group are no independent evidence.

    Raises `UsageError` where rows, references or scores are not the same, or where there are too few for a bootstrap.
    """
    left, right = row_scores(one), row_scores(other)
    if left is None or right is None or left.name != right.name:
        raise UsageError("the two runs have no scores by row of one kind")
    places = {place: i for i, place in enumerate(other.places)}
    order = [places.get(place, -1) for place in one.places]
    if -1 in order or len(order) != len(places):
        raise UsageError(
            f"the two runs have other rows: {len(order)} and {len(places)}, {sum(i >= 0 for i in order)} in common; "
            "give both the same split.seed"
        )
    truth, theirs = one.column("reference"), other.column("reference")
    if truth is not None and theirs is not None and truth != [theirs[i] for i in order]:
        raise UsageError("the references of the two runs differ: the rows were changed in between")
    return _compared(left, right.values[order], one.places, groups)


def _compared(
    one: RowScores, other: np.ndarray, places: list[tuple[str, int]], groups: dict[tuple[str, int], str] | None
) -> RowComparison:
    known = np.isfinite(one.values) & np.isfinite(other)
    left, right = one.values[known], other[known]
    if not len(left):
        raise UsageError("no row has a score in both runs")
    names = None if groups is None else np.array([groups[place] for place in places])[known]
    try:
        low, high = statistics.paired_bootstrap(left - right, names)
    except ValueError as error:
        raise UsageError(f"the two runs cannot be compared: {error}") from error
    p, only_one, only_other = None, 0, 0
    if one.is_share:
        exact, only_one, only_other = statistics.exact_mcnemar(left > 0, right > 0)
        p = exact if names is None else None
    return RowComparison(
        score=one.name,
        rows=len(left),
        mean=float(left.mean()),
        other=float(right.mean()),
        low=low,
        high=high,
        p=p,
        only_one=only_one,
        only_other=only_other,
    )
