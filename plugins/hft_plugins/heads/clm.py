"""`clm`: causal language modelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.head import Draw, Encoded, Targets
from hft_plugins.heads.parts.added_tokens import AddedTokens, ended
from hft_plugins.heads.parts.language_model_head import LanguageHead, LanguageOptions, targets_at

NO_END = "the tokenizer has no end-of-text token, so that the end of a text is not learned"


class Options(LanguageOptions):
    """Options of `clm`: the text column."""


class CausalLanguageModelling(LanguageHead):
    """Predict the next token at each position; a text ends with the end-of-text token, which is predicted as well.

    Each chunk of a long text begins with what the tokenizer adds to the beginning of a text; the last one alone has the
    end-of-text token, once, also where the tokenizer adds one by itself.
    """

    def attach(self, backbone: Backbone) -> None:
        if not backbone.causal:
            raise ValueError("the backbone is bidirectional; causal language modelling needs an autoregressive one")
        if backbone.encoder_decoder:
            raise ValueError(
                "the backbone's encoder sees the tokens to come; causal language modelling needs a decoder"
            )
        super().attach(backbone)

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        added, end = AddedTokens.of(tokenizer), tokenizer.eos_token_id
        room = max_length - len(added.begin)
        if room < 2:
            raise PluginError(f"task '{self.task}': max_length {max_length} has no room for two tokens of a text")
        chunks: list[list[int]] = []
        of_rows: list[int] = []
        for row, ids in enumerate(tokenizer(list(rows[self.text]), add_special_tokens=False)["input_ids"]):
            text = ended(added.begun(ids)[len(added.begin) :], end)
            cuts = _cuts(len(text), room, alone=bool(added.begin))
            chunks += [[*added.begin, *text[slice(*cut)]] for cut in pairwise(cuts)]
            of_rows += [row] * (len(cuts) - 1)
        kinds = "token_type_ids" in tokenizer.model_input_names
        extra = {"token_type_ids": [[0] * len(chunk) for chunk in chunks]} if kinds else {}
        notes = dict.fromkeys(of_rows, NO_END) if end is None else {}
        return Encoded(chunks, of_rows, extra=extra, notes=notes)

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        following = [(i, p, token) for i, ids in enumerate(sequences) for p, token in enumerate(ids[1:])]
        return sequences, targets_at(following)


def _cuts(length: int, room: int, *, alone: bool) -> list[int]:
    """Return where a text of so many tokens is cut, both ends included. The last token stands `alone` in a chunk only
    where something before it predicts it."""
    cuts = [*range(0, length, room), length]
    if not alone and len(cuts) > 2 and cuts[-1] - cuts[-2] == 1:
        cuts[-2] -= 1
    return cuts


def build(options: Options, *, task: str) -> CausalLanguageModelling:
    return CausalLanguageModelling(task, options)
