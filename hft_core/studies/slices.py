"""Divide the answers of a task by a column of its rows, and score each part with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats

from hft_core.runs.answers import Answers
from hft_core.studies.statistics import LEVEL, holm

MOST = 12
"""Slices of a column; smaller groups are counted together."""
OTHERS, NOTHING = "(others)", "(empty)"
RIGHT = "right answers"


@dataclass(frozen=True)
class RowScores:
    """What each row of a split scored."""

    name: str
    """`right answers`, `absolute error` or `loss`."""
    values: np.ndarray
    """`[rows]`: 1 or 0 for right answers; NaN where a row has none."""

    @property
    def is_share(self) -> bool:
        """Whether the mean is the share of right answers."""
        return self.name == RIGHT


def row_scores(answers: Answers) -> RowScores | None:
    """Return whether each answer is right, how far each number is off, or each row's loss: the first that there is."""
    if (correct := answers.correct) is not None:
        return RowScores(RIGHT, correct.astype(float))
    said, truth = answers.column("prediction"), answers.column("reference")
    if said is not None and truth is not None and all(isinstance(v, int | float | None) for v in (*said, *truth)):
        return RowScores("absolute error", np.abs(np.array(said, float) - np.array(truth, float)))
    lost = answers.column("loss")
    return None if lost is None else RowScores("loss", np.array(lost, float))


@dataclass(frozen=True)
class Slice:
    """The mean score of some rows, with a 95 % interval."""

    name: str
    rows: int
    mean: float
    low: float
    high: float
    """Of the interval: Wilson's for shares, otherwise Student's t; infinite with one row."""
    p: float
    """Of a difference to all other rows, after Holm's correction over the slices: Fisher's exact test for shares,
    otherwise Welch's t test."""


def slices(scores: RowScores, cells: Sequence[Any]) -> list[Slice]:
    """Return the scores by the value of a column, `cells` `[rows]`: the largest groups first.

    Numbers of which there are many are divided at their quartiles.
    """
    names = _quarters(cells) or [NOTHING if cell is None else str(cell) for cell in cells]
    known = np.isfinite(scores.values)
    if not known.any():
        return []
    groups: dict[str, list[int]] = {}
    for i in np.flatnonzero(known):
        groups.setdefault(names[i], []).append(int(i))
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    if len(ordered) > MOST:
        rest = [i for _, rows in ordered[MOST - 1 :] for i in rows]
        ordered = [*ordered[: MOST - 1], (OTHERS, rest)]
    parts = [(name, scores.values[rows], _without(scores.values, rows, known)) for name, rows in ordered]
    adjusted = holm([_p(part, rest, share=scores.is_share) for _, part, rest in parts])
    return [
        Slice(name, len(part), float(part.mean()), *_interval(part, share=scores.is_share), float(p))
        for (name, part, _), p in zip(parts, adjusted, strict=True)
    ]


def _quarters(cells: Sequence[Any]) -> list[str]:
    """Return the quarter that each number is in; empty where the cells are not many different numbers."""
    numbers = [cell for cell in cells if isinstance(cell, int | float) and not isinstance(cell, bool)]
    if len(set(numbers)) <= MOST or len(numbers) < sum(cell is not None for cell in cells):
        return []
    bounds = np.quantile(numbers, [0.25, 0.5, 0.75])
    edges = [min(numbers), *bounds, max(numbers)]
    titles = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    return [NOTHING if cell is None else titles[int(np.searchsorted(bounds, cell))] for cell in cells]


def _without(values: np.ndarray, rows: Sequence[int], known: np.ndarray) -> np.ndarray:
    rest = known.copy()
    rest[rows] = False
    others: np.ndarray = values[rest]
    return others


def _p(part: np.ndarray, rest: np.ndarray, *, share: bool) -> float:
    if share:
        hits, others = int(part.sum()), int(rest.sum())
        table = [[hits, len(part) - hits], [others, len(rest) - others]]
        return float(stats.fisher_exact(table).pvalue) if len(rest) else 1.0
    if min(len(part), len(rest)) < 2 or part.std() + rest.std() == 0:
        return 1.0
    return float(stats.ttest_ind(part, rest, equal_var=False).pvalue)


def _interval(part: np.ndarray, *, share: bool) -> tuple[float, float]:
    if share:
        return wilson(int(part.sum()), len(part))
    if len(part) < 2:
        return -math.inf, math.inf
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(part) - 1) * part.std(ddof=1) / math.sqrt(len(part)))
    return float(part.mean()) - reach, float(part.mean()) + reach


def wilson(hits: int, rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (Wilson 1927)."""
    found = stats.binomtest(hits, rows).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)
