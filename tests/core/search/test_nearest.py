"""The nearest vectors: exactly, whatever the chunks, and nearly all of them in a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hft_core.predict.embeddings import normalized
from hft_core.search import nearest
from hft_core.search.nearest import Exact, Graph


def drawn(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Vectors in clusters, as those of texts are."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(max(1, count // 50), size))
    return normalized(
        (centers[random.integers(len(centers), size=count)] + random.normal(size=(count, size))).astype("f")
    )


@pytest.mark.parametrize("chunk", [7, 16, 1000])
@pytest.mark.parametrize("k", [1, 5, 60])
def test_exact_search_is_a_sort_of_all_products(chunk: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "CHUNK", chunk)
    monkeypatch.setattr(nearest, "QUERIES", 3)
    vectors, queries = drawn(50, 8), drawn(10, 8, seed=1)
    similar, numbers = Exact(vectors)(queries, k)
    expected = np.argsort(-(queries.astype("f8") @ vectors.astype("f8").T), axis=1)[:, :k]
    assert numbers.tolist() == expected.tolist()
    assert similar == pytest.approx(np.take_along_axis(queries @ vectors.T, expected, 1), abs=1e-6)


def test_of_equal_vectors_the_first_ones_are_found_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "CHUNK", 4)
    vectors = np.tile(np.eye(2, dtype=np.float32), (10, 1))
    _, numbers = Exact(vectors)(np.array([[1, 0], [0, 1]], np.float32), 5)
    assert numbers.tolist() == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


def test_a_vector_without_length_stays_as_it_is() -> None:
    assert normalized(np.array([[0, 0], [3, 4]], np.float32)).tolist() == [
        [0, 0],
        [0.6000000238418579, 0.800000011920929],
    ]


def test_a_graph_finds_nearly_all_and_is_the_same_after_it_was_written(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="the extra search")
    vectors, queries = drawn(4000, 48), drawn(200, 48, seed=1)
    exact_similar, exact = Exact(vectors)(queries, 10)
    graph = Graph.build(vectors)
    graph.write(tmp_path / "graph")
    similar, found = Graph.read(tmp_path / "graph")(queries, 10)
    assert np.array_equal(found, graph(queries, 10)[1])
    hits = [len({*one} & {*other}) for one, other in zip(exact.tolist(), found.tolist(), strict=True)]
    assert sum(hits) / exact.size > 0.98
    both = found == exact
    assert similar[both] == pytest.approx(exact_similar[both], abs=1e-5)
    assert (np.diff(similar, axis=1) <= 0).all()
