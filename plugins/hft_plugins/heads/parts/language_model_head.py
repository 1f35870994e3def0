"""What the language-modelling heads have in common: the trunk's own LM head and its loss on chosen positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hft_core import options
from hft_core.backbone import Backbone, FamilyModule, Features, LanguageModel
from hft_core.head import Column, Encoded, Head, Targets
from hft_plugins.heads.parts import vocabulary_loss


class LanguageOptions(options.Options):
    """Which column is read."""

    text: str = Field(default="text", description="column of the text")


class LmHead(Head):
    """Cross-entropy of the LM head's logits at chosen positions."""

    main_metric = "perplexity"
    greater_is_better = False

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.language_model: LanguageModel | None = None
        self._vocabulary = 1

    def attach(self, backbone: Backbone) -> None:
        if backbone.language_model is None:
            raise ValueError("the backbone has no LM head, which this head needs")
        self.language_model = backbone.language_model
        self._vocabulary = len(backbone.tokenizer)
        self.pretrained = self.part_of_trunk = self.language_model.pretrained

    @property
    def family(self) -> FamilyModule | None:
        return self.language_model

    def loss(self, features: Features, targets: Targets) -> Tensor:
        """`targets` holds `sequence`, `position` and `label`, each `[n]`."""
        sequence, position, label = (targets.tensors[name] for name in ("sequence", "position", "label"))
        assert self.language_model is not None, "attach comes first"
        hidden = features.hidden[sequence, position]
        return vocabulary_loss.cross_entropy(self.language_model, hidden, label, vocabulary=self._vocabulary)

    def losses(self, features: Features, targets: Targets) -> Tensor | None:
        sequence, position, label = (targets.tensors[name] for name in ("sequence", "position", "label"))
        assert self.language_model is not None, "attach comes first"
        hidden = features.hidden[sequence, position]
        tokens = vocabulary_loss.token_losses(self.language_model, hidden, label, vocabulary=self._vocabulary)
        return tokens.new_zeros(len(features.input_ids)).index_add(0, sequence, tokens)

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


class LanguageHead(LmHead):
    """Learns from the text itself; long texts become several examples."""

    supervised = False
    chunks_long_texts = True

    def __init__(self, task: str, options: LanguageOptions) -> None:
        super().__init__(task)
        self.text = options.text

    def columns(self) -> Sequence[Column]:
        return [Column(self.text, "text")]

    def chunks(
        self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, *, offsets: bool = False
    ) -> tuple[Encoded, Any]:
        """The texts as examples of at most `max_length` tokens, with the tokenizer's own encoding of them (and
        `offsets`, their places in the texts)."""
        encoding = tokenizer(
            list(texts),
            truncation=True,
            max_length=max_length,
            return_overflowing_tokens=True,
            return_attention_mask=False,
            return_offsets_mapping=offsets,
        )
        extra = {"token_type_ids": encoding["token_type_ids"]} if "token_type_ids" in encoding else {}
        return Encoded(encoding["input_ids"], list(encoding["overflow_to_sample_mapping"]), extra=extra), encoding


def targets_at(positions: Sequence[tuple[int, int, int]]) -> Targets:
    """Targets of (sequence, position, label) triples."""
    table = torch.tensor(positions, dtype=torch.long).reshape(-1, 3)
    return Targets(len(table), dict(zip(("sequence", "position", "label"), table.unbind(1), strict=True)))
