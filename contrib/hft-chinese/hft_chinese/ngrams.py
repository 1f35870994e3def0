"""Mask words in runs of one to four, as MacBERT does, and choose their replacements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hft_chinese.segmentation import NO_WORD

MACBERT_SHARES = (0.4, 0.3, 0.2, 0.1)
"""Of runs of one, two, three and four words (Cui et al. 2020, arXiv:2004.13922, section 4)."""


@dataclass(frozen=True)
class NgramMasking:
    """Runs of whole words. A word is hidden entirely or not at all, and all of its tokens become mask tokens, random
    tokens, or stay what they are.

    MacBERT puts similar words in place of most; they come from word vectors, which this does not have, so that the mask
    token stands there, as in BERT.
    """

    shares: Sequence[float]
    """Of runs of one, two, … words; their sum is 1."""
    probability: float
    """Share of the tokens that are to be predicted."""
    mask_replace: float
    """Share of the chosen words that become mask tokens."""
    random_replace: float
    """Share of those that become random tokens."""
    mask_token: int
    vocabulary: int

    def __call__(
        self, ids: np.ndarray, words: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The tokens as the trunk shall see them, and the positions to predict, in order.

        `ids` `[n]`; `words` `[n]`: the number of each token's word, rising, or `NO_WORD`.
        """
        text = np.flatnonzero(words != NO_WORD)
        if len(text) == 0:
            return ids, text
        _, starts = np.unique(words[text], return_index=True)
        parts = np.split(text, starts[1:])
        hidden = self._hidden(np.asarray([len(part) for part in parts]), random)
        chosen = [parts[word] for word in hidden]
        return self._replaced(ids, chosen, random), np.concatenate(chosen)

    def _hidden(self, lengths: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Which words of `lengths` tokens are hidden: runs from random words on, until the wanted share of tokens is
        reached. A run ends early at a hidden word, and where the share is reached."""
        wanted = max(1, round(self.probability * int(lengths.sum())))
        hidden = np.zeros(len(lengths), dtype=bool)
        taken = 0
        for first in random.permutation(len(lengths)):
            if taken >= wanted:
                break
            if hidden[first]:
                continue
            end = first + 1 + random.choice(len(self.shares), p=self.shares)
            for word in range(first, min(end, len(lengths))):
                if hidden[word] or taken >= wanted:
                    break
                hidden[word] = True
                taken += int(lengths[word])
        return np.flatnonzero(hidden)

    def _replaced(self, ids: np.ndarray, chosen: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
        """`chosen` holds the positions of each word."""
        new = ids.copy()
        for positions, fate in zip(chosen, random.random(len(chosen)), strict=True):
            if fate < self.mask_replace:
                new[positions] = self.mask_token
            elif fate < self.mask_replace + self.random_replace:
                new[positions] = random.integers(0, self.vocabulary, size=len(positions))
        return new
