"""The measures of active learning, compared with scipy's and with a search of all distances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import entropy as reference

from hft_core import UsageError
from hft_core.active_learning import criteria
from hft_core.active_learning.diversity import k_center
from hft_core.active_learning.predicted import Predicted, predicted
from hft_core.predict.embeddings import normalized


def one(probabilities: dict[str, float]) -> Predicted:
    return predicted({"label": max(probabilities, key=probabilities.__getitem__), "probabilities": probabilities}, "t")


def many(probabilities: dict[str, float]) -> Predicted:
    given = [name for name, value in probabilities.items() if value >= 0.5]
    return predicted({"value": given, "probabilities": probabilities}, "t")


COMMITTEE = [one(dict(zip("abc", values, strict=True))) for values in ([0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.4, 0.6, 0])]
LABELS = [many({"x": 0.9, "y": 0.3}), many({"x": 0.6, "y": 0.55})]


def test_margin_and_entropy_are_of_the_mean_probabilities() -> None:
    mean = np.mean([run.probabilities[0] for run in COMMITTEE], axis=0)
    assert criteria.margin(COMMITTEE[:1]) == pytest.approx(0.5)
    assert criteria.margin(COMMITTEE) == pytest.approx(mean[1] - mean[0])
    assert criteria.entropy(COMMITTEE) == pytest.approx(reference(mean))
    assert criteria.margin(LABELS) == pytest.approx(abs(2 * 0.425 - 1))
    assert criteria.entropy(LABELS) == pytest.approx(reference([0.75, 0.25]) + reference([0.425, 0.575]))


def test_disagreement_is_the_mean_divergence_from_the_mean() -> None:
    mean = np.mean([run.probabilities[0] for run in COMMITTEE], axis=0)
    expected = np.mean([reference(run.probabilities[0], mean) for run in COMMITTEE])
    assert criteria.disagreement(COMMITTEE) == pytest.approx(expected)
    assert criteria.disagreement([COMMITTEE[0]] * 3) == pytest.approx(0, abs=1e-12)
    of_x = np.mean([reference([p, 1 - p], [0.75, 0.25]) for p in (0.9, 0.6)])
    of_y = np.mean([reference([p, 1 - p], [0.425, 0.575]) for p in (0.3, 0.55)])
    assert criteria.disagreement(LABELS) == pytest.approx(of_x + of_y)


def test_vote_entropy_is_of_the_answers() -> None:
    assert criteria.vote_entropy(COMMITTEE) == pytest.approx(reference([1 / 3, 2 / 3]))
    assert criteria.vote_entropy(LABELS) == pytest.approx(np.log(2))
    assert criteria.vote_entropy(COMMITTEE[1:]) == 0


def test_an_answer_without_probabilities_is_refused() -> None:
    with pytest.raises(UsageError, match="'score' answers without probabilities"):
        predicted({"value": 0.3}, "score")


@pytest.mark.parametrize("labeled", [0, 3])
def test_each_center_is_the_vector_farthest_from_those_before(labeled: int) -> None:
    vectors = normalized(np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32))
    centers, vectors = vectors[:labeled], vectors[labeled:]
    found = k_center(vectors, 12, centers)
    chosen = [number for number, _ in found]
    assert len(set(chosen)) == 12
    if not labeled:
        assert found[0] == (int(np.argmin(cdist(vectors, vectors.mean(axis=0, keepdims=True), "cosine"))), None)
    for i, (number, distance) in enumerate(found):
        before = np.concatenate([centers, vectors[chosen[:i]]])
        if len(before):
            nearest = cdist(vectors, before).min(axis=1)
            assert distance == pytest.approx(nearest.max(), abs=1e-4) == nearest[number]


def test_of_equal_vectors_the_first_is_taken_and_none_twice() -> None:
    vectors = np.tile(np.array([[1, 0], [0, 1]], np.float32), (3, 1))
    assert [number for number, _ in k_center(vectors, 9)] == [0, 1, 2, 3, 4, 5]
