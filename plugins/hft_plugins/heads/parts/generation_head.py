"""Share the loss, generation and metrics of heads that generate text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerBase

from hft_core import options
from hft_core.backbone import Backbone, Features
from hft_core.head import Draw, Encoded, Targets, Writing
from hft_plugins.heads.parts.added_tokens import AddedTokens
from hft_plugins.heads.parts.end_tokens import CUT, NO_END, end_tokens
from hft_plugins.heads.parts.language_model_head import LmHead, targets_at
from hft_plugins.heads.parts.text_metrics import Tokenizer, need_libraries, text_scores, tokenizer_for

NO_LABEL = -100
"""Label of positions without loss, as in transformers."""


class GenerationOptions(options.Options):
    """Options of generation and its metrics; those left out are taken from the model's generation_config.json."""

    max_target_length: int | None = Field(
        default=None, gt=1, description="longest target of an encoder-decoder in tokens; longer ones are truncated"
    )
    generate: bool = Field(
        default=False, description="generate texts for dev and test too, and score them with ROUGE, BLEU and chrF"
    )
    tokenize: Tokenizer | None = Field(
        default=None,
        description="sacrebleu's tokenizer for BLEU, unless 13a also for ROUGE; when left out, zh or char where "
        "most targets are Chinese or Japanese, and 13a otherwise",
    )
    max_new_tokens: int = Field(default=128, gt=0, description="most tokens generated for a row")
    num_beams: int = Field(default=1, gt=0, description="number of beams; 1: no beam search")
    do_sample: bool = Field(default=False, description="sample each token instead of taking the most likely one")
    temperature: float | None = Field(default=None, gt=0, description="sampling temperature")
    top_k: int | None = Field(default=None, gt=0, description="sample among this many most likely tokens")
    top_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="nucleus sampling: sample among the most likely tokens of this total probability",
    )
    length_penalty: float | None = Field(
        default=None, description="length penalty of beam search; above 0, longer texts score higher"
    )
    no_repeat_ngram_size: int | None = Field(default=None, ge=0, description="size of n-grams that may not repeat")

    @model_validator(mode="after")
    def _settings_that_do_something(self) -> GenerationOptions:
        for name in ("temperature", "top_k", "top_p"):
            if getattr(self, name) is not None and not self.do_sample:
                raise ValueError(f"{name} is a setting of sampling: it needs do_sample: true")
        if self.length_penalty is not None and self.num_beams == 1:
            raise ValueError("length_penalty is a setting of beam search: it needs num_beams above 1")
        return self

    def settings(self) -> dict[str, Any]:
        """Return the arguments of the backbone's `generate`."""
        names = (*("max_new_tokens", "num_beams", "do_sample", "temperature", "top_k", "top_p", "length_penalty"),)
        wanted = {name: getattr(self, name) for name in (*names, "no_repeat_ngram_size")}
        return {name: value for name, value in wanted.items() if value is not None}


class GenerationHead(LmHead):
    """Writes a text after another one.

    Of an example it knows `labels` (the token to write at each position, or `NO_LABEL`), `prompt` (decoders: how many
    tokens stand before what is to be written) and `reference` (the text to write).
    """

    generates = True

    def __init__(self, task: str, options: GenerationOptions) -> None:
        super().__init__(task)
        self.generation = options
        self.predicts_when_scored = options.generate
        self.main_metric, self.greater_is_better = ("rougeL", True) if options.generate else ("loss", False)
        self.backbone: Backbone | None = None

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        if not backbone.generates:
            raise ValueError(
                "the backbone writes no texts; this head needs an autoregressive one or an encoder-decoder"
            )
        wanted, limit = self.generation.max_target_length, backbone.max_target_length
        if wanted and backbone.encoder_decoder and wanted > limit:
            raise ValueError(f"max_target_length is {wanted}, but the backbone's decoder takes at most {limit} tokens")
        if self.generation.generate:
            need_libraries()
        self.backbone = backbone

    def encode_apart(
        self,
        sources: Sequence[str],
        targets: Sequence[str | None] | None,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
    ) -> Encoded:
        """Return examples of an encoder-decoder, the targets (where there are any) beside the sources.

        Both lose their ends where they are too long; a target that does is learned without an end-of-text token.
        """
        assert self.backbone is not None, "attach comes first"
        given = tokenizer(list(sources), truncation=True, max_length=max_length, return_attention_mask=False)
        encoded = Encoded(given["input_ids"], list(range(len(sources))))
        if targets is None or None in targets:  # rows to predict on may have an empty column
            return encoded
        limit = self.generation.max_target_length or self.backbone.max_target_length
        added = AddedTokens.of(tokenizer, "text_target")
        written = tokenizer(text_target=list(targets), add_special_tokens=False)["input_ids"]
        labels = [added.around(ids, limit) for ids in written]
        encoded.extra = {
            "decoder_input_ids": [self.backbone.decoder_input_ids(ids) for ids in labels],
            "decoder_attention_mask": [[1] * len(ids) for ids in labels],
        }
        encoded.targets = {"labels": labels, "reference": list(targets)}
        ends = end_tokens(tokenizer)
        endless = [row for row, ids in enumerate(written) if not ends.intersection(added.end or ids[-1:])]
        cut = [row for row, ids in enumerate(written) if len(added.around(ids, limit + 1)) > limit]
        encoded.notes = {**dict.fromkeys(endless, NO_END), **dict.fromkeys(cut, CUT)}
        return encoded

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        labels = targets.get("labels", [])
        collated = targets_at([(i, p, t) for i, row in enumerate(labels) for p, t in enumerate(row) if t != NO_LABEL])
        if "prompt" in targets:
            collated.tensors["prompt"] = torch.tensor(targets["prompt"])
        return sequences, collated

    def predict(self, features: Features, targets: Targets) -> list[Any]:
        assert self.backbone is not None, "attach comes first"
        ids, mask = features.input_ids, features.attention_mask
        if "prompt" in targets.tensors:  # what follows it is what the model shall write by itself
            prompt = targets.tensors["prompt"]
            ids = ids[:, : int(prompt.max())]
            mask = (torch.arange(ids.shape[1], device=ids.device) < prompt.unsqueeze(1)).to(mask.dtype)
            ids = ids.masked_fill(mask == 0, self.backbone.tokenizer.pad_token_id)
        written = self.backbone.generate({"input_ids": ids, "attention_mask": mask}, **self.generation.settings())
        texts = self.backbone.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def writing(self) -> Writing:
        return Writing(self.generation.settings())

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        return {"text": predictions[0]}

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        return targets["reference"]

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        tokenizer = self.generation.tokenize or tokenizer_for(references)
        scores = text_scores(predictions, references, tokenizer) if predictions else {}
        return {**super().metrics(predictions, references, loss), **scores}
