"""Count what the answers of a task got right: by label, by confidence and by slice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hft_core.runs.answers import Answers

MOST_LABELS = 12
"""Labels of a confusion matrix; rarer ones are counted together."""
OTHERS = "(others)"
BINS = 10
Z = 1.959964
"""Of a two-sided 95 % interval."""


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
    ece: float
    """Expected calibration error, over ten bins of equal width."""
    brier: float
    """Mean squared distance of the probabilities to the right answer, summed over labels."""
    nll: float
    """Mean −log of the right label's probability."""


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
    return Calibration(bins, float(ece), brier, float(-np.log(np.maximum(chosen, 1e-12)).mean()))


@dataclass(frozen=True)
class Slice:
    """The share of right answers among some rows, with a 95 % interval."""

    name: str
    rows: int
    share: float
    low: float
    high: float


def slices(correct: Sequence[bool], names: Sequence[Any], *, most: int = 12) -> list[Slice]:
    """Return the share of right answers by name, the largest groups first."""
    groups: dict[str, list[bool]] = {}
    for hit, name in zip(correct, names, strict=True):
        groups.setdefault(str(name), []).append(bool(hit))
    largest = sorted(groups.items(), key=lambda item: -len(item[1]))[:most]
    return [_slice(name, hits) for name, hits in largest]


def by_length(correct: Sequence[bool], lengths: Sequence[int]) -> list[Slice]:
    """Return the share of right answers by quarters of the texts' lengths in characters."""
    if len(set(lengths)) < 4:
        return []
    bounds = np.quantile(lengths, [0.25, 0.5, 0.75])
    parts: list[list[bool]] = [[], [], [], []]
    for hit, length in zip(correct, lengths, strict=True):
        parts[int(np.searchsorted(bounds, length))].append(bool(hit))
    edges = [min(lengths), *(math.ceil(bound) for bound in bounds), max(lengths)]
    return [_slice(f"{a} to {b} characters", p) for a, b, p in zip(edges, edges[1:], parts, strict=False) if p]


def _slice(name: str, hits: Sequence[bool]) -> Slice:
    low, high = wilson(sum(hits), len(hits))
    return Slice(name, len(hits), sum(hits) / len(hits), low, high)


def wilson(hits: int, rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (Wilson 1927)."""
    share, spread = hits / rows, Z**2 / rows
    middle = (share + spread / 2) / (1 + spread)
    reach = Z * math.sqrt(share * (1 - share) / rows + spread / (4 * rows)) / (1 + spread)
    return max(0.0, middle - reach), min(1.0, middle + reach)
