"""`mlm`: masked language modelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerBase

from hft_core.backbone import Backbone
from hft_core.head import Draw, Encoded, Targets
from hft_plugins.heads.language import LanguageHead, LanguageOptions, targets_at


class Options(LanguageOptions):
    """Column and masking."""

    mask_probability: float = Field(default=0.15, gt=0, lt=1, description="share of tokens that are to be predicted")
    mask_replace: float = Field(default=0.8, ge=0, le=1, description="share of those that become the mask token")
    random_replace: float = Field(default=0.1, ge=0, le=1, description="share of those that become a random token")
    whole_word: bool = Field(default=False, description="choose whole words instead of single tokens")

    @model_validator(mode="after")
    def _shares_of_one_whole(self) -> Options:
        if self.mask_replace + self.random_replace > 1:
            raise ValueError("mask_replace and random_replace are shares of the same tokens: their sum is at most 1")
        return self


class MaskedLanguageModelling(LanguageHead):
    """Masks are drawn anew for each epoch, from (seed, epoch, example) alone.

    Source: Devlin et al. 2019, arXiv:1810.04805; whole words as in its later models.
    """

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task, options)
        self.masking = options
        self._special: np.ndarray = np.empty(0, dtype=np.int64)
        self._mask = self._vocabulary = 0

    def attach(self, backbone: Backbone) -> None:
        if backbone.causal:
            raise ValueError("the backbone is autoregressive; masked language modelling needs a bidirectional one")
        super().attach(backbone)
        tokenizer = backbone.tokenizer
        if tokenizer.mask_token_id is None:
            raise ValueError("the backbone's tokenizer has no mask token")
        self._special = np.asarray(sorted(set(tokenizer.all_special_ids)))
        self._mask, self._vocabulary = tokenizer.mask_token_id, len(tokenizer)

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        encoded, encoding = self.chunks(rows[self.text], tokenizer, max_length)
        if self.masking.whole_word:
            words = [[-1 if w is None else w for w in encoding.word_ids(i)] for i in range(len(encoded.sequences))]
            encoded.targets["words"] = words
        return encoded

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        masked, positions = [], []
        words = targets.get("words", [None] * len(sequences))
        for i, (sequence, word, example) in enumerate(zip(sequences, words, examples, strict=True)):
            random = draw.generator(example)
            ids = np.asarray(sequence)
            chosen = self._choose(ids, word, random)
            positions += [(i, int(p), int(ids[p])) for p in chosen]
            masked.append(self._replace(ids, chosen, random).tolist())
        return masked, targets_at(positions)

    def _choose(self, ids: np.ndarray, words: list[int] | None, random: np.random.Generator) -> np.ndarray:
        """Positions to predict: the wanted share of the text, and at least one token or word of it."""
        text = np.flatnonzero(~np.isin(ids, self._special))
        units = text if words is None else np.unique(np.asarray(words)[text])
        if len(units) == 0:
            return text
        count = max(1, round(self.masking.mask_probability * len(units)))
        drawn = random.choice(units, size=count, replace=False)
        return np.sort(drawn) if words is None else text[np.isin(np.asarray(words)[text], drawn)]

    def _replace(self, ids: np.ndarray, chosen: np.ndarray, random: np.random.Generator) -> np.ndarray:
        fate = random.random(len(chosen))
        new = ids.copy()
        masked = fate < self.masking.mask_replace
        changed = ~masked & (fate < self.masking.mask_replace + self.masking.random_replace)
        new[chosen[masked]] = self._mask
        new[chosen[changed]] = random.integers(0, self._vocabulary, size=int(changed.sum()))
        return new


def build(options: Options, *, task: str) -> MaskedLanguageModelling:
    return MaskedLanguageModelling(task, options)
