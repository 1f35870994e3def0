"""Tell whether what is learned has an end, and whether generation stops there."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from hft_core.backbone import Backbone

NO_END = (
    "no token that ends the response is learned, so that the model does not learn to stop: expected an end-of-text or "
    "end-of-turn token at its end (in a chat template, within {% generation %})"
)

CUT = "the response is longer than its limit leaves, and loses its end: where it stops is not learned"


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that can end a text or a turn: special and added ones, except for the unknown token."""
    return frozenset({*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()} - {tokenizer.unk_token_id})


def stop_tokens(backbone: Backbone) -> frozenset[int]:
    """Return the tokens at which generation stops: those of the model's generation settings, or the tokenizer's."""
    settings = getattr(getattr(backbone.language_model, "whole", None), "generation_config", None)
    stops = getattr(settings, "eos_token_id", None)
    if stops is None:
        stops = backbone.tokenizer.eos_token_id
    return frozenset([stops] if isinstance(stops, int) else stops or [])


def last_token(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the last token that is no blank; the last one of all where there is none."""
    texts = (str(tokenizer.decode([token])) for token in reversed(ids))
    return next((ids[-i] for i, text in enumerate(texts, start=1) if text.strip()), ids[-1])
