"""Find the vectors with the largest inner product with each query: exactly, or in a graph of neighbors."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hft_core.errors import UsageError
from hft_core.runtime import signals

if TYPE_CHECKING:
    from numpy.typing import NDArray

Found = tuple["NDArray[np.float32]", "NDArray[np.int64]"]
"""Similarities and numbers of vectors, both `[queries, k]`, the most similar first."""

CHUNK = 16_384
"""Vectors that are multiplied, or added to a graph, at a time."""
QUERIES = 256
"""Queries whose similarities to a chunk are in memory at a time."""
LINKS, BUILD_WIDTH, SEARCH_WIDTH = 32, 80, 128
"""Links of a vector in the graph (M), and candidates that are kept while it is built and searched (ef)."""


class Nearest(Protocol):
    """A way to find the nearest vectors."""

    def __call__(self, queries: NDArray[np.float32], k: int) -> Found:
        """Return the `k` nearest vectors of each query `[queries, d]`; all, where there are not more."""


class Exact:
    """Multiply each query with all vectors, a chunk at a time."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        """`vectors`: `[n, d]`, in memory or mapped from a file."""
        self._vectors = vectors

    def __call__(self, queries: NDArray[np.float32], k: int) -> Found:
        k = min(k, len(self._vectors))
        parts = [self._of(queries[start : start + QUERIES], k) for start in range(0, len(queries), QUERIES)]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _of(self, queries: NDArray[np.float32], k: int) -> Found:
        best = np.empty((len(queries), 0), np.float32)
        numbers = np.empty((len(queries), 0), np.int64)
        for start in range(0, len(self._vectors), CHUNK):
            signals.check()
            similar = queries @ self._vectors[start : start + CHUNK].T
            own = np.broadcast_to(np.arange(start, start + similar.shape[1]), similar.shape)
            best, numbers = _largest(np.hstack([best, similar]), np.hstack([numbers, own]), k)
        return best, numbers


def _largest(values: NDArray[np.float32], numbers: NDArray[np.int64], k: int) -> Found:
    """Return the `k` largest values of each row with their numbers; of equal ones, the lowest numbers."""
    if values.shape[1] > k:
        least = np.partition(values, -k, axis=1)[:, -k]
        kept = [_first(np.flatnonzero(row >= bound), row, k) for row, bound in zip(values, least, strict=True)]
    else:
        kept = [_first(np.arange(len(row)), row, k) for row in values]
    chosen = np.array(kept)
    return np.take_along_axis(values, chosen, 1), np.take_along_axis(numbers, chosen, 1)


def _first(places: NDArray[np.int64], row: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Order places, which ascend with their numbers where values are equal, and keep the first `k`."""
    return places[np.argsort(-row[places], kind="stable")[:k]]


class Graph:
    """A graph in which each vector is linked to near ones (HNSW, Malkov and Yashunin 2018, arXiv:1603.09320), by
    faiss. It finds most of the nearest vectors, not always all."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def build(cls, vectors: NDArray[np.float32]) -> Graph:
        """Link the vectors `[n, d]`."""
        import faiss

        index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_WIDTH
        for part in _chunks(vectors):
            signals.check()
            index.add(part)
        return cls(index)

    @classmethod
    def read(cls, path: Path) -> Graph:
        """Read what `write` wrote. Raises `RuntimeError` for another file."""
        import faiss

        return cls(faiss.read_index(str(path)))

    def write(self, path: Path) -> None:
        """Write the graph with its vectors. Raises `RuntimeError` where it cannot be written."""
        import faiss

        faiss.write_index(self._index, str(path))

    @property
    def shape(self) -> tuple[int, int]:
        """Vectors in it, and their size."""
        return self._index.ntotal, self._index.d

    def __call__(self, queries: NDArray[np.float32], k: int) -> Found:
        k = min(k, self._index.ntotal)
        self._index.hnsw.efSearch = max(SEARCH_WIDTH, 2 * k)
        similar, numbers = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        return similar, numbers


def _chunks(vectors: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(vectors), CHUNK):
        yield np.ascontiguousarray(vectors[start : start + CHUNK], np.float32)


def need_faiss(why: str) -> None:
    """Raise `UsageError`, which begins with `why`, where faiss is not installed."""
    if importlib.util.find_spec("faiss") is None:
        raise UsageError(f"{why} with faiss, which is not installed: pip install 'hft-core[search]', or give --exact")
