"""`clm`: causal language modelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from hft_core.backbone import Backbone
from hft_core.head import Draw, Encoded, Targets
from hft_plugins.heads.parts.language_model_head import LanguageHead, LanguageOptions, targets_at


class Options(LanguageOptions):
    """Options of `clm`: the text column."""


class CausalLanguageModelling(LanguageHead):
    """Predict the next token at each position; a text ends with the end-of-text token, which is predicted as well."""

    def attach(self, backbone: Backbone) -> None:
        if not backbone.causal:
            raise ValueError("the backbone is bidirectional; causal language modelling needs an autoregressive one")
        if backbone.encoder_decoder:
            raise ValueError(
                "the backbone's encoder sees the tokens to come; causal language modelling needs a decoder"
            )
        super().attach(backbone)

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        texts = [text + (tokenizer.eos_token or "") for text in rows[self.text]]
        encoded, _ = self.chunks(texts, tokenizer, max_length)
        return encoded

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        following = [(i, p, token) for i, ids in enumerate(sequences) for p, token in enumerate(ids[1:])]
        return sequences, targets_at(following)


def build(options: Options, *, task: str) -> CausalLanguageModelling:
    return CausalLanguageModelling(task, options)
