"""`mlm-jieba`: masked language modelling of Chinese, with whole words and runs of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from hft_chinese.ngrams import MACBERT_SHARES, NgramMasking
from hft_chinese.segmentation import Word, read_dictionary, segmenter, words_of
from hft_core import options
from hft_core.backbone import Backbone, FamilyModule, Features, LanguageModel
from hft_core.head import Column, Draw, Encoded, Head, Targets


class Options(options.Options):
    """Column, words and masking."""

    text: str = Field(default="text", description="column of the text")
    dictionary: options.LocalPath | None = Field(
        default=None, description="file of words beside jieba's own, `WORD [FREQUENCY] [TAG]` a line"
    )
    hmm: bool = Field(default=True, description="jieba also guesses words that are in no dictionary")
    ngrams: tuple[float, ...] = Field(
        default=MACBERT_SHARES, description="shares of runs of one, two, … words; [1]: words by themselves"
    )
    mask_probability: float = Field(default=0.15, gt=0, lt=1, description="share of tokens that are to be predicted")
    mask_replace: float = Field(default=0.8, ge=0, le=1, description="share of their words that become mask tokens")
    random_replace: float = Field(default=0.1, ge=0, le=1, description="share of those that become random tokens")

    @field_validator("ngrams")
    @classmethod
    def _are_shares(cls, ngrams: tuple[float, ...]) -> tuple[float, ...]:
        if not all(share >= 0 for share in ngrams) or not math.isclose(sum(ngrams), 1, abs_tol=1e-8):
            raise ValueError(f"these are shares of one whole: none below 0, and a sum of 1, not {sum(ngrams):g}")
        return ngrams

    @model_validator(mode="after")
    def _goes_together(self) -> Options:
        if self.mask_replace + self.random_replace > 1:
            raise ValueError("mask_replace and random_replace are shares of the same words: their sum is at most 1")
        return self


class JiebaMaskedLanguageModelling(Head):
    """Cross-entropy of the trunk's LM head at hidden words; long texts become several examples. What is hidden is drawn
    anew for each epoch, from (seed, epoch, example) alone.

    Source: MacBERT (Cui et al. 2020, arXiv:2004.13922), with the mask token in place of similar words.
    """

    main_metric = "perplexity"
    greater_is_better = False
    supervised = False
    chunks_long_texts = True
    changes_sequences = True

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task)
        self.options = options
        self.language_model: LanguageModel | None = None
        self._masking: NgramMasking | None = None

    # --- data

    def columns(self) -> Sequence[Column]:
        return [Column(self.options.text, "text")]

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        """Facts: the words of the `dictionary`, so that a finished run does not need the file."""
        self.facts = {"dictionary": read_dictionary(self.options.dictionary) if self.options.dictionary else []}

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        texts = list(rows[self.options.text])
        encoding = tokenizer(
            texts,
            truncation=True,
            max_length=max_length,
            return_overflowing_tokens=True,
            return_attention_mask=False,
            return_offsets_mapping=True,
        )
        own: tuple[Word, ...] = tuple((word, frequency) for word, frequency in self.facts["dictionary"])
        words = words_of(encoding, texts, segmenter(own), tokenizer.all_special_ids, hmm=self.options.hmm)
        extra = {"token_type_ids": encoding["token_type_ids"]} if "token_type_ids" in encoding else {}
        of_rows = list(encoding["overflow_to_sample_mapping"])
        return Encoded(encoding["input_ids"], of_rows, extra=extra, targets={"words": words})

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        assert self._masking is not None, "attach comes first"
        shown: list[list[int]] = []
        places: list[tuple[int, int, int]] = []
        for i, (sequence, words, example) in enumerate(zip(sequences, targets["words"], examples, strict=True)):
            seen, chosen = self._masking(np.asarray(sequence), np.asarray(words), draw.generator(example))
            shown.append(seen.tolist())
            places += [(i, int(position), sequence[position]) for position in chosen]
        table = torch.tensor(places, dtype=torch.long).reshape(-1, 3)
        return shown, Targets(len(table), dict(zip(("sequence", "position", "label"), table.unbind(1), strict=True)))

    # --- model

    def attach(self, backbone: Backbone) -> None:
        tokenizer = backbone.tokenizer
        if backbone.causal:
            raise ValueError("the backbone is autoregressive; masked language modelling needs a bidirectional one")
        if backbone.language_model is None:
            raise ValueError("the backbone has no LM head, which this head needs")
        if tokenizer.mask_token_id is None or not tokenizer.is_fast:
            raise ValueError("the backbone's tokenizer is not a fast one with a mask token, which this head needs")
        self.language_model = backbone.language_model
        self.pretrained = self.part_of_trunk = self.language_model.pretrained
        self._masking = NgramMasking(
            shares=self.options.ngrams,
            probability=self.options.mask_probability,
            mask_replace=self.options.mask_replace,
            random_replace=self.options.random_replace,
            mask_token=tokenizer.mask_token_id,
            vocabulary=len(tokenizer),
        )

    def loss(self, features: Features, targets: Targets) -> Tensor:
        """`targets` holds `sequence`, `position` and `label`, each `[n]`."""
        assert self.language_model is not None, "attach comes first"
        hidden = features.hidden[targets.tensors["sequence"], targets.tensors["position"]]
        logits: Tensor = self.language_model(hidden)
        return functional.cross_entropy(logits.float(), targets.tensors["label"], reduction="sum")

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}

    @property
    def family(self) -> FamilyModule | None:
        return self.language_model


def build(options: Options, *, task: str) -> JiebaMaskedLanguageModelling:
    return JiebaMaskedLanguageModelling(task, options)
