"""Judge an export: scores and answers of what was exported, beside those of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hft_core.export.held_out import Answered

TOLERANCE, INT8_TOLERANCE = 0.01, 0.05
"""What is allowed where nothing else is asked for."""
SAME_NUMBER = 0.05
"""A number is another answer where it differs by more than this share of the range of the run's own."""


@dataclass(frozen=True)
class TaskVerdict:
    """How one task fared."""

    split: str
    rows: int
    main_metric: str
    original: dict[str, float]
    exported: dict[str, float]
    """Scores by metric."""
    other_answers: float | None
    """The share of rows with another answer; None for heads without answers."""
    largest_difference: float
    """Between two numbers of the answers: probabilities, values, parts of embeddings."""
    drop: float | None
    """How much worse the main score is: as it is where more is better, otherwise as a share of the original; None for a
    head that is selected by its loss."""

    def within(self, tolerance: float) -> bool:
        return all(value is None or value <= tolerance for value in (self.drop, self.other_answers))

    def problem(self) -> str:
        """Say what the verdict goes by."""
        parts = []
        if self.drop is not None:
            old, new = self.original[self.main_metric], self.exported[self.main_metric]
            parts.append(f"{self.main_metric} {old:.4g} became {new:.4g}")
        if self.other_answers is not None:
            parts.append(f"{self.other_answers:.2%} of the answers are others")
        return ", ".join(parts)


@dataclass(frozen=True)
class Verdict:
    """How an export fared."""

    tasks: dict[str, TaskVerdict]
    tolerance: float

    @property
    def beyond(self) -> list[str]:
        """The tasks that are beyond the tolerance."""
        return [task for task, found in self.tasks.items() if not found.within(self.tolerance)]

    def facts(self) -> dict[str, Any]:
        """Return what `verdict.json` holds."""
        tasks = {
            task: {**vars(found), "within_tolerance": found.within(self.tolerance)}
            for task, found in self.tasks.items()
        }
        return {"tolerance": self.tolerance, "within_tolerance": not self.beyond, "tasks": tasks}


def compare(
    original: Answered, exported: Answered, *, split: str, rows: int, main_metric: str, greater_is_better: bool
) -> TaskVerdict:
    """Compare what a run and its export say to the same rows of a task."""
    old, new = original.scores.get(main_metric), exported.scores.get(main_metric)
    drop = None
    if old is not None and new is not None:
        drop = old - new if greater_is_better else (new - old) / max(abs(old), 1e-12)
    others, largest = _differences(original.answers, exported.answers)
    return TaskVerdict(split, rows, main_metric, original.scores, exported.scores, others, largest, drop)


def _differences(
    original: Sequence[Mapping[str, Any]], exported: Sequence[Mapping[str, Any]]
) -> tuple[float | None, float]:
    """Return the share of rows with another answer, and the largest difference of two numbers.

    Probabilities do not make an answer another one; labels, tags and texts do, and numbers that are not near.
    """
    if not original:
        return None, 0.0
    numbers = [number for answer in original for number in _numbers(_said(answer))]
    near = SAME_NUMBER * (max(numbers) - min(numbers)) if numbers else 0.0
    pairs = list(zip(original, exported, strict=True))
    others = sum(not _equal(_said(a), _said(b), near) for a, b in pairs)
    gaps = (abs(x - y) for a, b in pairs for x, y in zip(_numbers(a), _numbers(b), strict=False))
    return others / len(pairs), max(gaps, default=0.0)


def _said(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "probabilities"}


def _equal(one: Any, other: Any, near: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= near
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[name], other[name], near) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_equal(a, b, near) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(part)
