"""Count what the answers of a task got right, by label and by confidence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from hft_core.results import CalibrationScores
from hft_core.runs.answers import Answers

MOST_LABELS = 12
"""Labels of a confusion matrix; rarer ones are counted together."""
OTHERS = "(others)"
BINS = 10


@dataclass(frozen=True)
class Confusion:
    """How often each label was answered for each reference."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """Rows are references, columns predictions."""


def confusion(answers: Answers) -> Confusion | None:
    """Count references and predictions of a task with one label a row; None for other tasks."""
    truth, said = answers.column("reference"), answers.column("prediction")
    if not truth or not said or not all(isinstance(v, str) for v in (*truth, *said) if v is not None):
        return None
    pairs = [(a, b) for a, b in zip(truth, said, strict=True) if a is not None and b is not None]
    seen = Counter(label for pair in pairs for label in pair)
    if len(seen) > max(len(answers.labels), MOST_LABELS * 4):  # free text, not labels
        return None
    order = [label for label in answers.labels if label in seen] or sorted(seen)
    kept = order if len(order) <= MOST_LABELS else [label for label, _ in seen.most_common(MOST_LABELS - 1)]
    names = tuple(kept) if len(kept) == len(seen) else (*kept, OTHERS)
    index = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), int)
    for a, b in pairs:
        counts[index.get(a, len(names) - 1), index.get(b, len(names) - 1)] += 1
    return Confusion(names, tuple(tuple(map(int, row)) for row in counts))


@dataclass(frozen=True)
class Bin:
    """Rows whose confidence is in one tenth."""

    rows: int
    confidence: float
    """Mean probability of the answer."""
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities are what they say."""

    bins: tuple[Bin, ...]
    scores: CalibrationScores


def calibration(answers: Answers) -> Calibration | None:
    """Measure the probabilities of a task with one label a row; None where there are none, or labels are not alike."""
    probabilities, truth = answers.column("probabilities"), answers.column("reference")
    if not probabilities or not truth or not answers.labels:
        return None
    index = {label: i for i, label in enumerate(answers.labels)}
    pairs = zip(probabilities, truth, strict=True)
    known = [(p, index[label]) for p, label in pairs if p and isinstance(label, str) and label in index]
    if not known:
        return None
    values = np.array([p for p, _ in known], float)
    right = np.array([t for _, t in known])
    if not np.allclose(values.sum(axis=1), 1.0, atol=1e-3):  # of several labels at once
        return None
    confidence, hit = values.max(axis=1), values.argmax(axis=1) == right
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = tuple(
        Bin(int(inside.sum()), float(confidence[inside].mean()), float(hit[inside].mean()))
        for inside in (places == i for i in range(BINS))
        if inside.any()
    )
    ece = sum(b.rows * abs(b.accuracy - b.confidence) for b in bins) / len(known)
    brier = float(((values - np.eye(len(index))[right]) ** 2).sum(axis=1).mean())
    chosen = values[np.arange(len(right)), right]
    nll = float(-np.log(np.maximum(chosen, 1e-12)).mean())
    return Calibration(bins, CalibrationScores(ece=float(ece), brier=brier, nll=nll))
