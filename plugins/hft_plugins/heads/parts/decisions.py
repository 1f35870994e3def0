"""Fit to dev rows how probabilities become answers: a temperature, and decision thresholds for a stated metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy import optimize

TEMPERATURES = (0.05, 20.0)
"""The range in which a temperature is looked for."""
SMALLEST = 1e-30
"""Taken for a probability that float32 rounds to 0."""
ROUNDS = 3
"""Passes over all labels for a metric that the labels share."""

CALIBRATE_FIELD: Any = Field(
    default=False,
    description="divide the logits by a temperature that is fitted to the dev rows at the end of the run, so that "
    "probabilities are closer to the share of right answers; the answers stay",
)
TwoClassMetric = Literal["accuracy", "f1_macro", "f1_weighted"]
LabelMetric = Literal["f1_micro", "f1_macro", "hamming_loss"]


def fit_temperature(probabilities: Sequence[Sequence[float]], references: Sequence[int]) -> float:
    """Return the temperature with the lowest −log likelihood (Guo et al. 2017, arXiv:1706.04599), from softmax
    outputs `[rows, classes]` and right classes `[rows]`.

    1, where there is no such temperature: with all rows right, the lower the better.
    """
    logits = np.log(np.maximum(np.asarray(probabilities, float), SMALLEST))
    right = np.asarray(references, int)
    if (logits.argmax(axis=1) == right).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(right)), right]).mean())

    low, high = np.log(TEMPERATURES)
    found = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-5})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def at_temperature(probabilities: Sequence[Sequence[float]], temperature: float) -> list[list[float]]:
    """Return softmax outputs `[rows, classes]` as they are with the logits divided by `temperature`."""
    logits = np.log(np.maximum(np.asarray(probabilities, float), SMALLEST)) / temperature
    scaled: list[list[float]] = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).tolist()
    return scaled


def fit_threshold(probabilities: Sequence[float], truth: Sequence[int], metric: TwoClassMetric) -> float:
    """Return the threshold on the second class's probability `[rows]` with the best metric on `truth` (0 or 1)."""
    found, hits, given, true, rows = _candidates(np.asarray(probabilities, float), np.asarray(truth, int))
    right = hits + (rows - given - true + hits)
    f1_second = 2 * hits / np.maximum(given + true, 1)
    f1_first = 2 * (rows - given - true + hits) / np.maximum(2 * rows - given - true, 1)
    share = true / rows
    scores = {
        "accuracy": right / rows,
        "f1_macro": (f1_first + f1_second) / 2,
        "f1_weighted": (1 - share) * f1_first + share * f1_second,
    }[metric]
    return _best(found, scores)


def fit_thresholds(probabilities: Sequence[Sequence[float]], truth: Sequence[Any], metric: LabelMetric) -> list[float]:
    """Return a threshold for each label with the best metric, from probabilities and 0 or 1 `[rows, labels]` each.

    `f1_macro` and `hamming_loss` are best where each label is by itself. `f1_micro` counts all labels together: each
    label's threshold is moved with the others kept, some times over. A label that no dev row has keeps 0.5.
    """
    values, targets = np.asarray(probabilities, float), np.asarray(truth, int)
    columns = [_candidates(values[:, i], targets[:, i]) for i in range(values.shape[1])]
    if metric == "hamming_loss":
        return [_best(found, hits - (given - hits)) for found, hits, given, _, _ in columns]
    thresholds = [
        _best(found, 2 * hits / np.maximum(given + true, 1)) if true else 0.5 for found, hits, given, true, _ in columns
    ]
    if metric == "f1_macro":
        return thresholds
    said = values >= np.array(thresholds)
    for _ in range(ROUNDS):
        for i, (found, hits, given, true, _) in enumerate(columns):
            if not true:
                continue
            others = np.arange(len(columns)) != i
            more_hits, more_given = (said & (targets == 1))[:, others].sum(), said[:, others].sum()
            thresholds[i] = _best(found, 2 * (hits + more_hits) / np.maximum(given + more_given + targets.sum(), 1))
            said[:, i] = values[:, i] >= thresholds[i]
    return thresholds


def _candidates(values: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Return all thresholds that divide `values` `[rows]` differently, halfway between neighbors; with each, the rows
    that are given rightly and in all; then the rows that should be, and all rows."""
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    hits = np.append(0, np.cumsum(truth[order])[ends])
    distinct = ordered[ends]
    none = (1.0 + distinct[0]) / 2 if distinct[0] < 1 else np.nextafter(1.0, 2.0)  # above all rows
    halfway = (distinct + np.append(distinct[1:], 0.0)) / 2
    return np.append(none, halfway), hits, np.append(0, ends + 1), int(truth.sum()), len(values)


def _best(thresholds: np.ndarray, scores: np.ndarray) -> float:
    """Return the threshold with the highest score; of several, the nearest to 0.5."""
    best = thresholds[scores >= scores.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])
