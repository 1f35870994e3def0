"""Slices and two runs compared row by row, against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from hft_core.errors import UsageError
from hft_core.runs.answers import Answers
from hft_core.studies.row_comparison import compare_rows
from hft_core.studies.slices import NOTHING, OTHERS, row_scores, slices


def answers(truth: list[object], said: list[object], *, first: int = 1) -> Answers:
    places = {"file": ["rows.csv"] * len(truth), "row": list(range(first, first + len(truth)))}
    return Answers(pa.table({**places, "reference": truth, "prediction": said}), ())


def right(hits: list[bool]) -> Answers:
    return answers(["a"] * len(hits), ["a" if hit else "b" for hit in hits])


def test_slices_have_counts_wilsons_interval_and_fishers_p() -> None:
    hits = [True] * 18 + [False] * 2 + [True] * 10 + [False] * 30
    scores = row_scores(right(hits))
    assert scores is not None and scores.name == "right answers"
    large, small = slices(scores, ["x"] * 20 + [None] * 40)
    assert (large.name, large.rows, large.mean) == (NOTHING, 40, 0.25)
    assert (small.name, small.rows, small.mean) == ("x", 20, 0.9)
    wilson = stats.binomtest(18, 20).proportion_ci(method="wilson")
    assert (small.low, small.high) == pytest.approx((wilson.low, wilson.high))
    assert small.p == large.p == pytest.approx(2 * stats.fisher_exact([[18, 2], [10, 30]]).pvalue)  # Holm over two


def test_numbers_are_divided_at_quartiles_and_scored_by_how_far_off_they_are() -> None:
    lengths = list(range(100))
    scores = row_scores(answers([0.0] * 100, [float(i) for i in lengths]))
    assert scores is not None and scores.name == "absolute error"
    found = sorted(slices(scores, lengths), key=lambda part: part.mean)
    assert [part.rows for part in found] == [25] * 4
    low, high = stats.t.interval(0.95, 24, loc=12, scale=stats.sem(np.arange(25)))
    assert (found[0].mean, found[0].low, found[0].high) == pytest.approx((12, low, high))
    assert all(part.p < 0.05 for part in (found[0], found[-1]))


def test_small_groups_are_counted_together() -> None:
    scores = row_scores(right([True] * 40))
    assert scores is not None
    found = slices(scores, [f"origin {i // 2}" for i in range(40)])
    assert len(found) == 12 and found[-1].name == OTHERS
    assert sum(part.rows for part in found) == 40


def test_equal_slices_are_seldom_said_to_differ() -> None:
    random, said = np.random.default_rng(0), 0
    for _ in range(200):
        scores = row_scores(right(list(random.random(120) < 0.7)))
        assert scores is not None
        said += any(part.p < 0.05 for part in slices(scores, list(random.integers(0, 4, 120))))
    assert said <= 18  # 5 % of 200, and two standard deviations


def test_two_runs_are_compared_on_the_same_rows_in_any_order() -> None:
    random = np.random.default_rng(1)
    better, worse = random.random(300) < 0.9, random.random(300) < 0.7
    one, other = right(list(better)), right(list(worse))
    shuffled = Answers(other.table.take(pa.array(random.permutation(300))), ())
    found = compare_rows(one, shuffled)
    only = int((better & ~worse).sum()), int((~better & worse).sum())
    assert (found.only_one, found.only_other) == only
    assert found.p == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue)
    assert found.low < found.mean - found.other < found.high
    assert found.verdict == "better" and compare_rows(shuffled, one).verdict == "worse"
    assert compare_rows(one, one).verdict == "no difference shown"


def test_rows_of_one_group_are_one_piece_of_evidence() -> None:
    """Four groups of 40 copies: over rows the difference is clear, over groups there are too few."""
    one, other = right([True] * 160), right(([True] * 40 + [False] * 40) * 2)
    assert compare_rows(one, other).verdict == "better"
    groups = {place: str(i // 40) for i, place in enumerate(one.places)}
    with pytest.raises(UsageError, match="4 independent rows or groups are too few"):
        compare_rows(one, other, groups)


def test_a_smaller_error_is_better() -> None:
    one, other = (answers([1.0] * 50, [1.0 + step * (1 + i % 3)] * 50) for i, step in enumerate((0.1, 0.3)))
    assert compare_rows(one, other).verdict == "better"


def test_other_rows_and_other_references_are_refused() -> None:
    one = right([True] * 30)
    with pytest.raises(UsageError, match=r"30 and 30, 20 in common; give both the same split.seed"):
        compare_rows(one, answers(["a"] * 30, ["a"] * 30, first=11))
    with pytest.raises(UsageError, match="references of the two runs differ"):
        compare_rows(one, answers(["b"] * 30, ["a"] * 30))
