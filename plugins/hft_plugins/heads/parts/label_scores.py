"""Compute precision, recall and F1 of each label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hft_core.results import LabelScores


def label_scores(labels: Sequence[str], truth: Any, said: Any) -> LabelScores:
    """Return the scores of the labels that occur in `truth` or in `said`, by scikit-learn.

    Both are label ids `[rows]`, or 0 and 1 `[rows, labels]`.
    """
    from sklearn.metrics import precision_recall_fscore_support  # slow to import

    truth, said = np.asarray(truth, dtype=int), np.asarray(said, dtype=int)
    if not truth.size:
        return {}
    ids = range(len(labels))
    columns = precision_recall_fscore_support(truth, said, average=None, labels=ids, zero_division=0.0)
    predicted = said.sum(axis=0) if said.ndim > 1 else np.bincount(said, minlength=len(labels))
    return {
        label: {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support),
            "predicted": int(count),
        }
        for label, precision, recall, f1, support, count in zip(labels, *columns, predicted, strict=True)
        if support or count
    }
