"""Answer `/v1/search`: the rows of an index that are nearest to texts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI

from hft_core.data.cells import problem
from hft_core.errors import did_you_mean
from hft_core.head import Column
from hft_core.sanitize import finite
from hft_core.search.index import Hit
from hft_core.search.reranking import check_reads_pairs
from hft_core.serve import schema
from hft_core.serve.batcher import Job
from hft_core.serve.errors import FAILURES, Refused
from hft_core.serve.limits import Limits
from hft_core.serve.rows import check_texts
from hft_core.serve.served_index import Searching, ServedIndex

TEXT = Column("text", "text")


def add_route(
    app: FastAPI,
    find: Callable[[str | None], ServedIndex],
    compute: Callable[[Job], Awaitable[Any]],
    limits: Limits,
    count: Callable[[str, str, int], None],
) -> None:
    """Add the route. `find`: an index by its name; `compute`: the result of a job; `count`: is told run, task and
    rows that were answered."""

    @app.post("/v1/search", responses=FAILURES)
    async def search(request: schema.SearchRequest) -> schema.SearchResponse:
        """Find the rows of an index that are nearest to texts."""
        served = find(request.index)
        asked = Searching(request.texts, request.k, request.rerank, request.candidates)
        rows = _checked(served, asked, limits)
        key = (id(served), "search", asked.rerank, asked.candidates)
        found: list[list[Hit]] = await compute(Job(key, rows, served.search, asked))
        count(served.run.name, served.index.facts.task, len(asked.texts))
        results = [[schema.SearchHit(**finite(hit.to_json())) for hit in own] for own in found]
        return schema.SearchResponse(index=served.name, run=served.run.name, results=results)


def _checked(served: ServedIndex, asked: Searching, limits: Limits) -> int:
    """Return how many rows the model computes for a request. Raises `Refused` (404, 413, 422), and `UsageError` for a
    task that cannot re-rank."""
    texts, size = asked.texts, check_texts(list(asked.texts))
    if len(texts) > limits.items:
        raise Refused(413, f"{len(texts)} texts were given, at most {limits.items} are taken: send several requests")
    if size > limits.characters:
        raise Refused(413, f"the texts have {size} characters, at most {limits.characters} are taken")
    for i, text in enumerate(texts):
        if wrong := problem(text, TEXT):
            raise Refused(422, f"texts[{i}]: {wrong}")
    if asked.rerank is None:
        return len(texts)
    heads = served.run.model.heads
    if asked.rerank not in heads:
        raise Refused(
            404, f"rerank: run '{served.run.name}' has no task '{asked.rerank}'.{did_you_mean(asked.rerank, heads)}"
        )
    check_reads_pairs(served.run.saved, asked.rerank, served.index.facts.columns)
    pairs = len(texts) * min(max(asked.k, asked.candidates), served.index.facts.rows)
    if pairs > limits.items:
        raise Refused(
            413, f"{pairs} pairs are to be re-ranked, at most {limits.items} are: give fewer texts or candidates"
        )
    return len(texts) + pairs
