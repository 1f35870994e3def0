"""Compute ranking losses.

Each takes `[queries, candidates]` scores and relevances, the latter NaN where a query has no such candidate, and
returns a sum over as many targets as its `count` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class RankingLoss:
    """A loss, and what it is a sum over."""

    loss: Callable[[Tensor, Tensor], Tensor]
    """Scores and relevances → a scalar."""
    count: Callable[[Tensor], int]
    """Relevances → targets."""


def _known(relevance: Tensor) -> Tensor:
    return ~relevance.isnan()


def _bce(scores: Tensor, relevance: Tensor) -> Tensor:
    known = _known(relevance)
    return functional.binary_cross_entropy_with_logits(scores[known], relevance[known], reduction="sum")


def _mse(scores: Tensor, relevance: Tensor) -> Tensor:
    known = _known(relevance)
    return functional.mse_loss(scores[known], relevance[known], reduction="sum")


def _pairs(relevance: Tensor) -> Tensor:
    """`[queries, candidates, candidates]`: the first is more relevant than the second."""
    return relevance.unsqueeze(2) > relevance.unsqueeze(1)


def _ranknet(scores: Tensor, relevance: Tensor) -> Tensor:
    """log(1 + exp(s_j - s_i)) for each pair of a query's candidates in which i is more relevant than j."""
    difference = scores.unsqueeze(2) - scores.unsqueeze(1)
    return functional.softplus(-difference[_pairs(relevance)]).sum()


def _differing(relevance: Tensor) -> Tensor:
    """`[queries]`: there is an order to learn."""
    return relevance.nan_to_num(-math.inf).amax(dim=1) > relevance.nan_to_num(math.inf).amin(dim=1)


def _listnet(scores: Tensor, relevance: Tensor, temperature: float | None) -> Tensor:
    """Cross-entropy between the softmax of a query's relevances and that of its scores.

    With a `temperature`, the relevances of a query are scaled to 0…1 and divided by it.
    """
    chosen = _differing(relevance)
    relevance, missing = relevance[chosen], ~_known(relevance[chosen])
    if temperature is not None:
        low = relevance.nan_to_num(math.inf).amin(dim=1, keepdim=True)
        high = relevance.nan_to_num(-math.inf).amax(dim=1, keepdim=True)
        relevance = (relevance - low) / (high - low) / temperature
    target = relevance.masked_fill(missing, -math.inf).softmax(dim=1)
    predicted = scores[chosen].masked_fill(missing, -math.inf).log_softmax(dim=1)
    return -(target * predicted.masked_fill(missing, 0.0)).sum()


def listwise(temperature: float | None) -> RankingLoss:
    """Return ListNet (Cao et al. 2007), over relevances as they are or scaled for a `temperature`."""
    return RankingLoss(
        lambda scores, relevance: _listnet(scores, relevance, temperature),
        lambda relevance: int(_differing(relevance).sum()),
    )


LOSSES = {
    "bce": RankingLoss(_bce, lambda relevance: int(_known(relevance).sum())),
    "mse": RankingLoss(_mse, lambda relevance: int(_known(relevance).sum())),
    "pairwise": RankingLoss(_ranknet, lambda relevance: int(_pairs(relevance).sum())),
}
