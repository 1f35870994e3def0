"""Trees: what is none, and the best one, against every tree there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hft_dependency import tree


def best_of_all(scores: np.ndarray) -> float:
    """The greatest sum of scores among all trees with one root, tried one by one."""
    words = len(scores) - 1
    sums = [
        sum(scores[word, head] for word, head in enumerate(heads, start=1))
        for heads in itertools.product(range(words + 1), repeat=words)
        if not tree.fault(heads)
    ]
    return float(max(sums))


def worth(scores: np.ndarray, heads: list[int]) -> float:
    return float(sum(scores[word, head] for word, head in enumerate(heads, start=1)))


@pytest.mark.parametrize("pull", [0.0, 20.0, -20.0])
@pytest.mark.parametrize("words", [1, 2, 3, 4, 5])
def test_equals_brute_force(words: int, pull: float) -> None:
    random = np.random.default_rng((words, 3))
    for _ in range(20):
        scores = random.normal(size=(words + 1, words + 1))
        scores[:, 0] += pull  # towards several roots, or away from any
        heads = tree.best_tree(scores)
        assert tree.fault(heads) == ""
        assert worth(scores, heads) == pytest.approx(best_of_all(scores))


def test_equals_networkx_on_longer_sentences() -> None:
    networkx = pytest.importorskip("networkx")
    random = np.random.default_rng(5)
    for words in (8, 14, 21):
        scores = random.normal(size=(words + 1, words + 1)).astype(np.float32)
        heads = tree.best_tree(scores)
        dear = scores.astype(float)
        dear[:, 0] -= 1000.0  # networkx knows no single root
        graph = networkx.DiGraph()
        graph.add_weighted_edges_from(
            (head, word, dear[word, head]) for word in range(1, words + 1) for head in range(words + 1) if head != word
        )
        best = networkx.maximum_spanning_arborescence(graph)
        assert sorted(best.edges()) == sorted((head, word) for word, head in enumerate(heads, start=1))


def test_cycles_inside_cycles_are_opened() -> None:
    """Words 1 and 2 prefer each other, both together and 3 prefer each other, and only 4 wants the root."""
    scores = np.full((5, 5), -5.0)
    for word, head, score in ((1, 2, 9), (2, 1, 9), (3, 1, 8), (1, 3, 7), (2, 4, 6), (4, 0, 5), (3, 4, 1)):
        scores[word, head] = score
    assert tree.best_tree(scores) == [2, 4, 1, 0]
    assert best_of_all(scores) == worth(scores, [2, 4, 1, 0])


def test_a_sentence_of_one_word_hangs_on_the_root_and_one_of_none_is_empty() -> None:
    assert tree.best_tree(np.zeros((2, 2))) == [0]
    assert tree.best_tree(np.zeros((1, 1))) == []


def test_scores_far_from_zero_do_not_blur_the_choice() -> None:
    random = np.random.default_rng(7)
    scores = random.normal(size=(6, 6))
    assert tree.best_tree(scores + 1e6) == tree.best_tree(scores)


@pytest.mark.parametrize(
    ("heads", "says"),
    [
        ([2, 3, 1], "cycle 1 → 2 → 3 → 1"),
        ([0, 3, 2], "cycle 2 → 3 → 2"),
        ([0, 0, 1], "2 roots (words 1, 2)"),
        ([0, 4, 1], "item 2: found the head 4, expected 0 (the root) or one of the words 1 … 3"),
        ([0, -1, 1], "item 2: found the head -1"),
        ([0, 2], "item 2: found the head 2, which is the word itself"),
    ],
)
def test_what_is_no_tree_is_told_by_its_fault(heads: list[int], says: str) -> None:
    assert says in tree.fault(heads)


def test_a_tree_has_no_fault() -> None:
    assert tree.fault([2, 0, 2, 3]) == ""
