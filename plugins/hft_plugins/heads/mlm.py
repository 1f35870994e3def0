"""`mlm`: masked language modelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerBase

from hft_core.backbone import Backbone
from hft_core.head import Draw, Encoded, Targets
from hft_plugins.heads.parts.language_model_head import LanguageHead, LanguageOptions, targets_at
from hft_plugins.heads.parts.masking import Kind, Masking
from hft_plugins.heads.parts.word_ids import Segmenter, need_segmenter, words_of


class Options(LanguageOptions):
    """Options of `mlm`: column and masking."""

    masking: Kind = Field(default="token", description="unit of masking: single tokens, whole words, or spans of words")
    segmenter: Segmenter | None = Field(
        default=None, description="word segmenter for Chinese text, which tokenizers split into characters"
    )
    mask_probability: float = Field(default=0.15, gt=0, lt=1, description="share of tokens that are to be predicted")
    mask_replace: float = Field(default=0.8, ge=0, le=1, description="share of those that become the mask token")
    random_replace: float = Field(default=0.1, ge=0, le=1, description="share of those that become a random token")

    @model_validator(mode="after")
    def _goes_together(self) -> Options:
        if self.mask_replace + self.random_replace > 1:
            raise ValueError("mask_replace and random_replace are shares of the same tokens: their sum is at most 1")
        if self.segmenter is not None and self.masking == "token":
            raise ValueError("a segmenter finds words: it needs masking: whole-word or span")
        return self


class MaskedLanguageModelling(LanguageHead):
    """Predict masked tokens; masks are sampled for each epoch from (seed, epoch, example) alone.

    Source: Devlin et al. 2019, arXiv:1810.04805.
    """

    changes_sequences = True

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task, options)
        self.options = options
        self._masking: Masking | None = None

    def attach(self, backbone: Backbone) -> None:
        if backbone.causal:
            raise ValueError("the backbone is autoregressive; masked language modelling needs a bidirectional one")
        super().attach(backbone)
        tokenizer = backbone.tokenizer
        if tokenizer.mask_token_id is None:
            raise ValueError("the backbone's tokenizer has no mask token")
        if self.options.segmenter is not None:
            need_segmenter(self.options.segmenter)
        self._masking = Masking(
            kind=self.options.masking,
            probability=self.options.mask_probability,
            mask_replace=self.options.mask_replace,
            random_replace=self.options.random_replace,
            mask_token=tokenizer.mask_token_id,
            vocabulary=len(tokenizer),
            special=np.asarray(sorted(set(tokenizer.all_special_ids))),
        )

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        texts, segmenter = rows[self.text], self.options.segmenter
        encoded, encoding = self.chunks(texts, tokenizer, max_length, offsets=segmenter is not None)
        if self.options.masking != "token":
            encoded.targets["words"] = words_of(encoding, texts, segmenter)
        return encoded

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        assert self._masking is not None, "attach comes first"
        masked, positions = [], []
        words = targets.get("words", [None] * len(sequences))
        for i, (sequence, word, example) in enumerate(zip(sequences, words, examples, strict=True)):
            ids = np.asarray(sequence)
            belongs = None if word is None else np.asarray(word)
            shown, chosen = self._masking(ids, belongs, draw.generator(example))
            positions += [(i, int(p), int(ids[p])) for p in chosen]
            masked.append(shown.tolist())
        return masked, targets_at(positions)


def build(options: Options, *, task: str) -> MaskedLanguageModelling:
    return MaskedLanguageModelling(task, options)
