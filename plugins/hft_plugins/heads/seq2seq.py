"""`seq2seq`: a target text from a source text (summaries, translations), by an encoder-decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from hft_core.backbone import Backbone
from hft_core.head import Column, Encoded, Writing
from hft_plugins.heads.parts.generation_head import GenerationHead, GenerationOptions


class Options(GenerationOptions):
    """Options of `seq2seq`: columns and generation."""

    source: str = Field(default="source", description="column of the text to read")
    target: str = Field(default="target", description="column of the text to write")
    source_prefix: str = Field(default="", description="prepended to each source, as for T5 ('summarize: ')")


class Seq2Seq(GenerationHead):
    """Train an encoder-decoder to generate the target from the source.

    Source: Sutskever et al. 2014, arXiv:1409.3215; transformers AutoModelForSeq2SeqLM.
    """

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task, options)
        self.read = options

    def columns(self) -> Sequence[Column]:
        return [Column(self.read.source, "text"), Column(self.read.target, "text", target=True)]

    def attach(self, backbone: Backbone) -> None:
        if not backbone.encoder_decoder:
            raise ValueError("the backbone is no encoder-decoder, which this head needs; 'instruction' takes a decoder")
        super().attach(backbone)

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        sources = [self.read.source_prefix + source for source in rows[self.read.source]]
        return self.encode_apart(sources, rows.get(self.read.target), tokenizer, max_length)

    def writing(self) -> Writing:
        return replace(super().writing(), before=self.read.source_prefix)


def build(options: Options, *, task: str) -> Seq2Seq:
    return Seq2Seq(task, options)
