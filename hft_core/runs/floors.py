"""Compare scores with their floors: what an answer that ignores the text would score."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hft_core.data.examples import Examples
from hft_core.head import Head
from hft_core.results import Floor, Scores, TrainingFacts
from hft_core.training.causes import likeliest_cause

MAX_EXAMPLES = 10_000
"""Training examples, evenly spaced, from which the answer that ignores the text is made."""
CLEARLY = 2
"""Standard errors above its floor from which on a score is clearly better."""


def floors(heads: Mapping[str, Head], examples: Mapping[str, Mapping[str, Examples]]) -> dict[str, dict[str, Floor]]:
    """Return the floor of each task's main metric, by split, of the tasks whose heads have one (`Head.baseline`).

    `examples`: by split and task.
    """
    found: dict[str, dict[str, Floor]] = {}
    for task, train in examples["train"].items():
        head = heads[task]
        answered = train.answered(head)
        ids = np.unique(np.linspace(0, len(answered) - 1, min(MAX_EXAMPLES, len(answered))).astype(int))
        baseline = head.baseline(train.references(answered[ids], head)) if len(train) else None
        if baseline is None:
            continue
        for split in ("dev", "test"):
            rows = examples.get(split, {}).get(task)
            if rows is not None and len(rows):
                references = rows.references(rows.answered(head), head)
                value = head.metrics([baseline] * len(references), references, math.nan)[head.main_metric]
                found.setdefault(split, {})[task] = Floor(value=value, rows=len(references))
    return found


def standard_error(value: float, rows: int) -> float | None:
    """Return the standard error of a share (accuracy and the like) of `rows` rows; None for other metrics."""
    return math.sqrt(value * (1 - value) / rows) if 0 <= value <= 1 and rows else None


def no_better_than_guessing(
    heads: Mapping[str, Head],
    scores: Mapping[str, Scores],
    found: Mapping[str, Mapping[str, Floor]],
    training: Mapping[str, TrainingFacts],
) -> list[str]:
    """Describe the tasks whose score is not clearly better than its floor, one sentence each.

    The test split counts, or the dev split without one. `training`: how that of each task went, in its last stage.
    """
    sentences = []
    for task, head in heads.items():
        split = next((s for s in ("test", "dev") if task in found.get(s, {}) and task in scores.get(s, {})), None)
        if split is None:
            continue
        floor, value = found[split][task], scores[split][task][head.main_metric]
        gain = value - floor.value if head.greater_is_better else floor.value - value
        if gain > CLEARLY * (standard_error(value, floor.rows) or 0.0):
            continue
        cause = f"; {likeliest_cause(training[task])}" if task in training else ""
        score = f"{split} {head.main_metric} {value:.4g}"
        sentences.append(
            f"task '{task}': {score} is not clearly better than the {floor.value:.4g} of an answer that ignores the "
            f"text{cause}"
        )
    return sentences
