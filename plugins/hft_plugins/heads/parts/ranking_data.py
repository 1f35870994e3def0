"""Report what is odd about the relevances of queries: none differ, one candidate each, ranks instead of relevances."""

from __future__ import annotations

from collections.abc import Sequence

FEW = 5
"""In so few queries, chance makes what is looked for."""


def relevance_oddities(queries: Sequence[Sequence[float]], column: str) -> list[str]:
    """Return a line for each kind. `queries`: the relevances of each query's candidates."""
    if len(queries) < FEW:
        return []
    found = []
    if len({relevance for query in queries for relevance in query}) == 1:
        found.append("all candidates are equally relevant: no order is learned")
    if all(len(query) == 1 for query in queries):
        found.append("each query has one candidate, so that ndcg, mrr and map are the same whatever its score is")
    if all(len(query) > 1 and sorted(query) == list(range(1, len(query) + 1)) for query in queries):
        found.append(
            "each query has the relevances 1, 2, 3 …, once each, as ranks are: the highest number is taken for the "
            "most relevant candidate, not for the last one"
        )
    return [f"column '{column}': {what}" for what in found]
