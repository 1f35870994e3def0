"""Open an index with the run that made it, and search it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hft_core.errors import UsageError
from hft_core.predict.embeddings import embed_texts, normalized
from hft_core.predict.prediction import head_of
from hft_core.predict.saved_run import SavedRun
from hft_core.runtime.run_folder import RunFolder
from hft_core.search.index_folder import IndexFacts, IndexFiles, read_facts
from hft_core.search.nearest import Exact, Nearest, need_faiss
from hft_core.search.reranking import check_reads_pairs, pair_scores

CANDIDATES = 50
"""Rows that are re-ranked for a query."""


@dataclass(frozen=True)
class Hit:
    """A row that was found."""

    number: int
    """Its place among the rows of the index, from 1."""
    similarity: float
    """The cosine of its embedding and the query's."""
    row: dict[str, Any]
    """By column, as it was given."""
    score: float | None = None
    """That of the task that re-ranked; None without one."""

    def to_json(self) -> dict[str, Any]:
        """Convert to values that JSON can hold."""
        score = {} if self.score is None else {"score": self.score}
        return {"number": self.number, "similarity": self.similarity, **score, "row": self.row}


class Index:
    """An index, and the opened run that embeds what is searched for."""

    def __init__(self, folder: Path, facts: IndexFacts, saved: SavedRun, *, exact: bool = False) -> None:
        """See `open_index`, which checks that they go together."""
        self.folder, self.facts, self.saved = folder, facts, saved
        self._files = IndexFiles(folder, facts)
        self._nearest: Nearest = self._files.graph() if facts.approximate and not exact else Exact(self._files.vectors)

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows in the order of their numbers."""
        return list(self._files.rows(range(self.facts.rows)).values())

    def search(
        self, queries: Sequence[str], k: int = 5, *, rerank: str | None = None, candidates: int = CANDIDATES
    ) -> list[list[Hit]]:
        """Return the `k` nearest rows of each query, the nearest first.

        `rerank`: a task of the run that scores pairs of a query and a row; the `candidates` nearest rows are ordered
        by it. Raises `UsageError` for a task that does not, or rows without the column that it reads.
        """
        columns = None if rerank is None else check_reads_pairs(self.saved, rerank, self.facts.columns)
        found = self._nearest(
            normalized(embed_texts(self.saved, self.facts.task, queries)), k if rerank is None else max(k, candidates)
        )
        similar, numbers = found[0].tolist(), found[1].tolist()
        rows = self._files.rows(number for own in numbers for number in own if number >= 0)
        hits = [
            [Hit(i + 1, value, rows[i]) for i, value in zip(own, values, strict=True) if i >= 0]
            for own, values in zip(numbers, similar, strict=True)
        ]
        if rerank is not None and columns is not None:
            hits = self._reranked(queries, hits, rerank, columns)
        return [of_query[:k] for of_query in hits]

    def _reranked(
        self, queries: Sequence[str], hits: Sequence[Sequence[Hit]], task: str, columns: tuple[str, str]
    ) -> list[list[Hit]]:
        pairs = [(query, hit.row) for query, own in zip(queries, hits, strict=True) for hit in own]
        scores = iter(pair_scores(self.saved, task, columns, pairs))
        scored = [[Hit(hit.number, hit.similarity, hit.row, next(scores)) for hit in own] for own in hits]
        return [sorted(own, key=lambda hit: -(hit.score or 0.0)) for own in scored]


def open_index(folder: str | Path, saved: SavedRun, *, exact: bool = False) -> Index:
    """Open the index in `folder` with the run that made it.

    `exact`: compare queries with all vectors, also where the index has a graph. Raises `UsageError` for a damaged
    index, one of another run, and where faiss is needed and missing.
    """
    folder = Path(folder)
    return bound(folder, read_facts(folder), saved, exact=exact)


def bound(folder: Path, facts: IndexFacts, saved: SavedRun, *, exact: bool = False) -> Index:
    """Open an index whose files were checked. Raises `UsageError`."""
    if facts.approximate and not exact:
        need_faiss(f"{folder} is searched")
    if RunFolder(saved.folder).model_digest() != facts.model:
        raise UsageError(
            f"{folder} was made with another run than {saved.folder} (its model or recipe differs): expected "
            f"{facts.run}, or make the index anew"
        )
    head_of(saved, facts.task)
    return Index(folder, facts, saved, exact=exact)
