"""The verdict of an export: which answers are others, and what is beyond the tolerance."""

from __future__ import annotations

from typing import Any

import pytest

from hft_core.export.held_out import Answered
from hft_core.export.verdict import Verdict, compare


def judged(original: list[Any], exported: list[Any], scores: tuple[float, float] = (1, 1), *, up: bool = True) -> Any:
    one, other = (
        Answered({"main": score}, answers) for score, answers in zip(scores, (original, exported), strict=True)
    )
    return compare(one, other, split="test", rows=len(original), main_metric="main", greater_is_better=up)


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ({"label": "a", "probabilities": {"a": 0.6}}, {"label": "a", "probabilities": {"a": 0.9}}, 0),
        ({"label": "a"}, {"label": "b"}, 0.5),
        ({"value": ["B-x", "O"], "entities": [{"start": 0}]}, {"value": ["B-x", "O"], "entities": [{"start": 0}]}, 0),
        ({"value": ["B-x", "O"]}, {"value": ["O", "O"]}, 0.5),
        ({"value": 2.0}, {"value": 2.4}, 0),
        ({"value": 2.0}, {"value": 2.6}, 0.5),
    ],
)
def test_labels_tags_and_numbers_that_are_not_near_are_other_answers(one: Any, other: Any, share: float) -> None:
    same = {**one, "value": 12.0} if isinstance(one.get("value"), float) else one  # the numbers' range is 10
    assert judged([same, one], [same, other]).other_answers == share


def test_the_largest_difference_is_that_of_two_numbers_whatever_they_mean() -> None:
    found = judged(
        [{"label": "a", "probabilities": {"a": 0.6, "b": 0.4}}], [{"label": "a", "probabilities": {"a": 0.9, "b": 0.1}}]
    )
    assert found.largest_difference == pytest.approx(0.3)
    assert found.other_answers == 0


@pytest.mark.parametrize(("scores", "up", "drop"), [((0.9, 0.8), True, 0.1), ((2.0, 2.5), False, 0.25)])
def test_a_main_score_may_drop_by_the_tolerance(scores: tuple[float, float], up: bool, drop: float) -> None:
    found = judged([{"label": "a"}], [{"label": "a"}], scores, up=up)
    assert found.drop == pytest.approx(drop)
    assert found.within(drop + 1e-9)
    assert not found.within(drop - 1e-9)
    assert Verdict({"topic": found}, drop - 1e-9).beyond == ["topic"]


def test_a_head_without_answers_is_judged_by_its_score_alone() -> None:
    found = judged([], [], (0.9, 0.9))
    assert found.other_answers is None
    assert found.within(0)
