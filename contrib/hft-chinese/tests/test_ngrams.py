"""Which words are hidden, in which runs, and what stands in their place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hft_chinese.ngrams import MACBERT_SHARES, NgramMasking

MASK, VOCABULARY = 1, 1000


def masking(**changed: Any) -> NgramMasking:
    settings = {"shares": MACBERT_SHARES, "probability": 0.15, "mask_replace": 0.8, "random_replace": 0.1, **changed}
    return NgramMasking(mask_token=MASK, vocabulary=VOCABULARY, **settings)


def text_of(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, and each token's word, of words of so many tokens between two special tokens."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return np.concatenate([[0], owner % 900 + 2, [0]]), np.concatenate([[-1], owner, [-1]])


def runs(words: np.ndarray) -> list[int]:
    """The lengths of the runs of neighbouring words."""
    return [len(run) for run in np.split(words, np.flatnonzero(np.diff(words) > 1) + 1)]


def test_runs_of_one_to_four_words_have_the_shares_of_macbert() -> None:
    lengths = np.ones(40_000, dtype=int)
    random = np.random.default_rng(0)
    found = [run for _ in range(20) for run in runs(masking(probability=0.01)._hidden(lengths, random))]
    shares = np.bincount(found, minlength=5)[1:5] / len(found)  # two runs may touch: one in a hundred
    assert shares == pytest.approx(MACBERT_SHARES, abs=0.03)


def test_each_word_is_hidden_entirely_or_not_at_all() -> None:
    random = np.random.default_rng(0)
    for seed in range(50):
        lengths = random.integers(1, 5, size=40).tolist()
        ids, words = text_of(lengths)
        shown, chosen = masking()(ids, words, np.random.default_rng(seed))
        assert np.all(np.diff(chosen) > 0)
        assert np.array_equal(np.flatnonzero(np.isin(words, words[chosen])), chosen)
        changed = np.flatnonzero(shown != ids)
        assert np.isin(changed, chosen).all()
        masked = words[shown == MASK]
        assert np.array_equal(np.flatnonzero(np.isin(words, masked)), np.flatnonzero(shown == MASK))


def test_the_share_of_tokens_is_the_wanted_one_up_to_the_last_word() -> None:
    ids, words = text_of([2, 1, 4, 3] * 50)
    for seed in range(20):
        _, chosen = masking()(ids, words, np.random.default_rng(seed))
        assert 75 <= len(chosen) <= 75 + 3


def test_with_one_share_words_are_chosen_by_themselves() -> None:
    lengths = np.ones(10_000, dtype=int)
    hidden = masking(shares=[1.0], probability=0.02)._hidden(lengths, np.random.default_rng(0))
    assert len(hidden) == 200
    assert np.mean(np.array(runs(hidden)) == 1) > 0.9


def test_chosen_words_become_masks_random_tokens_or_stay() -> None:
    ids, words = text_of([2] * 4000)
    shown, chosen = masking(mask_replace=0.5, random_replace=0.25)(ids, words, np.random.default_rng(3))
    pairs, before = shown[chosen].reshape(-1, 2), ids[chosen].reshape(-1, 2)
    masks, same = (pairs == MASK).all(axis=1), (pairs == before).all(axis=1)
    assert [masks.mean(), same.mean()] == pytest.approx([0.5, 0.25], abs=0.06)
    assert not (pairs[~masks] == MASK).all(axis=1).any()


def test_a_short_text_gives_up_one_word_and_special_tokens_none() -> None:
    ids, words = text_of([2])
    shown, chosen = masking(mask_replace=1.0, random_replace=0.0)(ids, words, np.random.default_rng(0))
    assert (shown.tolist(), chosen.tolist()) == ([0, MASK, MASK, 0], [1, 2])
    shown, chosen = masking()(np.array([0, 0]), np.array([-1, -1]), np.random.default_rng(0))
    assert (shown.tolist(), len(chosen)) == ([0, 0], 0)
