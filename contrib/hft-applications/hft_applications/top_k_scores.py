"""Score lists of recommendations by what their users did like afterwards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TopKScores:
    """Means over users, and the share of all items that anyone was recommended."""

    users: int
    ndcg: float
    recall: float
    coverage: float


def ndcg(recommended: Sequence[int], relevant: Collection[int], k: int) -> float:
    """Return the normalized discounted cumulative gain of the first `k` items, with a gain of 1 for a relevant one
    (Järvelin and Kekäläinen 2002)."""
    discounts = 1 / np.log2(np.arange(2, k + 2))
    gains = [item in relevant for item in recommended[:k]]
    return float(discounts[: len(gains)] @ np.array(gains, float) / discounts[: len(relevant)].sum())


def recall(recommended: Sequence[int], relevant: Collection[int], k: int) -> float:
    """Return the share of the relevant items that are among the first `k`."""
    return len(set(recommended[:k]) & set(relevant)) / len(relevant)


def score(lists: Sequence[Sequence[int]], relevant: Sequence[Collection[int]], *, items: int, k: int) -> TopKScores:
    """Score a list of item numbers for each user. Users without relevant items count for the coverage alone."""
    pairs = [(own, found) for own, found in zip(lists, relevant, strict=True) if found]
    shown = {item for own in lists for item in own[:k]}
    means = [float(np.mean([one(own, found, k) for own, found in pairs])) if pairs else 0.0 for one in (ndcg, recall)]
    return TopKScores(len(pairs), means[0], means[1], len(shown) / items)
