"""Measure how unsure runs are of a row, and how far they disagree, from their predictions.

Of independent labels (`multilabel`), the margin is that of the closest label, and the other measures are sums over
labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hft_core.active_learning.predicted import Predicted

if TYPE_CHECKING:
    from numpy.typing import NDArray

Measure = Callable[[Sequence[Predicted]], float]
"""Of a row, from the prediction of each run."""


def margin(runs: Sequence[Predicted]) -> float:
    """Return the difference of the two largest probabilities, each the mean of the runs (Scheffer, Decomain and Wrobel
    2001)."""
    ordered = np.sort(_consensus(runs), axis=1)
    return float((ordered[:, -1] - ordered[:, -2]).min()) if ordered.shape[1] > 1 else 1.0


def entropy(runs: Sequence[Predicted]) -> float:
    """Return the entropy, in nats, of the runs' mean distribution (Shannon 1948; Settles 2009)."""
    return float(_entropies(_consensus(runs)).sum())


def disagreement(runs: Sequence[Predicted]) -> float:
    """Return the mean Kullback-Leibler divergence, in nats, of the runs' distributions from their mean (McCallum and
    Nigam 1998)."""
    own = np.mean([_entropies(run.probabilities) for run in runs], axis=0)
    return max(0.0, float((_entropies(_consensus(runs)) - own).sum()))  # the mean divergence, written with entropies


def vote_entropy(runs: Sequence[Predicted]) -> float:
    """Return the entropy, in nats, of the runs' votes (Dagan and Engelson 1995)."""
    outcomes = runs[0].probabilities.shape[1]
    votes = np.array([run.votes for run in runs])
    counts = np.array([np.bincount(own, minlength=outcomes) for own in votes.T])
    return float(_entropies(counts / len(runs)).sum())


def _consensus(runs: Sequence[Predicted]) -> NDArray[np.float64]:
    return np.asarray(np.mean([run.probabilities for run in runs], axis=0))


def _entropies(distributions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy of each row, in nats; an outcome without probability adds nothing."""
    positive = np.where(distributions > 0, distributions, 1.0)
    return np.asarray(-(positive * np.log(positive)).sum(axis=1))


UNCERTAINTY: dict[str, Measure] = {"margin": margin, "entropy": entropy}
DISAGREEMENT: dict[str, Measure] = {"disagreement": disagreement, "vote-entropy": vote_entropy}
"""Of several runs."""
SMALLEST_FIRST = ("margin",)
"""The criteria whose smallest values are wanted."""
