from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hft_core.errors import DataError, UsageError
from hft_core.runs.consistency import check_same_facts
from hft_core.runs.learned_facts import check_unchanged, difference, facts_of


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({"labels": ["a", "b"]}, {"labels": ["a", "b"]}, ""),
        ({"labels": ["a", "b"]}, {"labels": ["b", "a"]}, 'labels: ["a", "b"] before, ["b", "a"] now'),
        ({"scale": float("nan")}, {"scale": float("nan")}, ""),
        ({"scale": 1.0, "mean": 2}, {"mean": 2}, "scale: 1.0 before, nothing now"),
        ({}, {"mean": 2}, "mean: nothing before, 2 now"),
        ({"by name": {"a": 1, "b": 2}}, {"by name": {"b": 2, "a": 1}}, ""),
    ],
)
def test_the_first_fact_that_differs_is_named(before: dict[str, Any], now: dict[str, Any], found: str) -> None:
    assert difference(before, now) == found


def test_of_long_facts_what_differs_is_shown() -> None:
    labels = [f"label-{i}" for i in range(100)]
    found = difference({"labels": labels}, {"labels": [*labels[:50], "other", *labels[51:]]})
    assert "label-50" in found
    assert "other" in found
    assert len(found) < 200


def test_facts_of_any_head_are_compared_as_they_are_read_back() -> None:
    facts = facts_of({"t": SimpleNamespace(facts={"pair": (1, 2), "odd": {3}})})  # type: ignore[dict-item]
    assert facts == {"t": {"pair": [1, 2], "odd": "{3}"}}
    check_unchanged({}, facts)  # a checkpoint of a version that did not record them
    with pytest.raises(DataError, match=r"task 't': the head learned other facts .*pair: \[2, 1\] before, \[1, 2\]"):
        check_unchanged({"t": {"pair": [2, 1], "odd": "{3}"}}, facts)


def test_processes_with_other_facts_do_not_begin() -> None:
    first, second = {"t": {"labels": ["a", "b"]}}, {"t": {"labels": ["b", "a"]}}
    check_same_facts([first, first])
    with pytest.raises(UsageError, match=r'labels: \["a", "b"\] in process 0, \["b", "a"\] in process 1'):
        check_same_facts([first, second])
