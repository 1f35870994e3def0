from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from hft_applications import top_k_scores


@pytest.mark.parametrize("k", [1, 3, 10])
def test_ndcg_is_that_of_scikit_learn(k: int) -> None:
    random = np.random.default_rng(k)
    for _ in range(20):
        scores, relevant = random.permutation(12), random.integers(0, 2, 12)
        relevant[0] = 1
        order = np.argsort(-scores).tolist()
        found = top_k_scores.ndcg(order[:k], set(np.flatnonzero(relevant).tolist()), k)
        assert found == pytest.approx(ndcg_score([relevant], [scores], k=k))


def test_a_list_that_is_shorter_than_k_loses_what_it_leaves_out() -> None:
    assert top_k_scores.ndcg([1], {1, 2}, 10) == pytest.approx(1 / (1 + 1 / np.log2(3)))


def test_means_are_over_users_with_relevant_items_and_coverage_over_all() -> None:
    found = top_k_scores.score([[1, 2, 9], [3, 4, 9], [5, 6, 9]], [{1}, {9, 0}, set()], items=10, k=2)
    assert (found.users, found.recall, found.coverage) == (2, 0.5, 0.6)
    assert found.ndcg == pytest.approx(0.5)
