"""Choose the tokens that masked language modelling hides, and their replacements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hft_plugins.heads.parts.word_ids import NO_WORD

Kind = Literal["token", "whole-word", "span"]

SPAN_PROBABILITY, LONGEST_SPAN = 0.2, 10
"""Lengths of spans are geometric with this parameter, up to so many words: 3.8 on average (Joshi et al. 2020)."""

_LENGTHS = np.arange(1, LONGEST_SPAN + 1)
_WEIGHTS = SPAN_PROBABILITY * (1 - SPAN_PROBABILITY) ** (_LENGTHS - 1)
_SPAN_SHARES = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Masking:
    """How one text is masked.

    `token`: single tokens (Devlin et al. 2019, arXiv:1810.04805). `whole-word`: all tokens of a word or none (as BERT's
    later models). `span`: runs of words (SpanBERT, Joshi et al. 2020, arXiv:1907.10529); a run becomes mask tokens,
    random tokens or nothing else as a whole, where the other two decide for each token.
    """

    kind: Kind
    probability: float
    """Share of the tokens (`token`, `span`) or words (`whole-word`) that are to be predicted."""
    mask_replace: float
    """Share of those that become the mask token."""
    random_replace: float
    """Share of those that become a random token."""
    mask_token: int
    vocabulary: int
    special: np.ndarray
    """Tokens that are no text, and never chosen."""

    def __call__(
        self, ids: np.ndarray, words: np.ndarray | None, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The tokens as the trunk shall see them, and the positions to predict, in order.

        `ids` `[n]`; `words` `[n]`: the number of each token's word, in the order of the words (not for `token`).
        """
        text = np.flatnonzero(~np.isin(ids, self.special))
        if words is not None:
            text = text[words[text] != NO_WORD]
        if len(text) == 0:
            return ids, text
        if self.kind == "span":
            assert words is not None, "spans are made of words"
            runs = self._spans(text, words, random)
            chosen = np.sort(np.concatenate(runs))
            fate = np.empty(len(ids))
            for run in runs:
                fate[run] = random.random()
            return self._replaced(ids, chosen, fate[chosen], random), chosen
        chosen = self._units(text, text if words is None else words[text], random)
        return self._replaced(ids, chosen, random.random(len(chosen)), random), chosen

    def _units(self, text: np.ndarray, unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Positions in the wanted share of units (tokens or words), and in one at least."""
        units = np.unique(unit)
        count = max(1, round(self.probability * len(units)))
        return text[np.isin(unit, random.choice(units, size=count, replace=False))]

    def _spans(self, text: np.ndarray, words: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
        """Runs of whole words, each begun at a random word that is still free, until the wanted share of tokens is
        reached; a run ends early at a word that is taken."""
        _, starts = np.unique(words[text], return_index=True)
        parts = np.split(text, np.sort(starts)[1:])
        wanted = max(1, round(self.probability * len(text)))
        free = np.ones(len(parts), dtype=bool)
        runs: list[np.ndarray] = []
        taken = 0
        while taken < wanted:
            first = last = int(random.choice(np.flatnonzero(free)))
            for word in range(first, min(first + int(random.choice(_LENGTHS, p=_SPAN_SHARES)), len(parts))):
                if not free[word] or taken >= wanted:
                    break
                free[word], last = False, word
                taken += len(parts[word])
            runs.append(np.concatenate(parts[first : last + 1]))
        return runs

    def _replaced(
        self, ids: np.ndarray, chosen: np.ndarray, fate: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """`fate` `[chosen]`, uniform in [0, 1), decides what becomes of each."""
        new = ids.copy()
        masked = fate < self.mask_replace
        changed = ~masked & (fate < self.mask_replace + self.random_replace)
        new[chosen[masked]] = self.mask_token
        new[chosen[changed]] = random.integers(0, self.vocabulary, size=int(changed.sum()))
        return new
