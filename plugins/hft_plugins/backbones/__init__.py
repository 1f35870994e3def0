"""Backbones: light specs only; each plugin's implementation is a module of its own beside this one."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import BackboneSpec

_SOURCE = "transformers (Wolf et al. 2020, arXiv:1910.03771)"


@hookimpl
def hft_backbones() -> list[BackboneSpec]:
    return [
        BackboneSpec(
            name="hf-encoder",
            summary="A bidirectional encoder (BERT, RoBERTa, DeBERTa, ModernBERT, …) with its masked-LM head",
            factory="hft_plugins.backbones.encoder:build",
            options="hft_plugins.backbones.options:EncoderOptions",
            opens="hft_plugins.backbones.options:opens_encoder",
            example={"model": "PATH"},
            source=_SOURCE,
        ),
        BackboneSpec(
            name="hf-decoder",
            summary="An autoregressive decoder (Llama, Qwen, GPT-2, …) with its LM head; also from GGUF files",
            factory="hft_plugins.backbones.decoder:build",
            options="hft_plugins.backbones.options:DecoderOptions",
            opens="hft_plugins.backbones.options:opens_decoder",
            example={"model": "PATH"},
            source=_SOURCE,
        ),
        BackboneSpec(
            name="hf-seq2seq",
            summary="An encoder-decoder (T5, BART, mBART, Pegasus, …) with its LM head",
            factory="hft_plugins.backbones.seq2seq:build",
            options="hft_plugins.backbones.options:Seq2SeqOptions",
            opens="hft_plugins.backbones.options:opens_seq2seq",
            example={"model": "PATH"},
            source=_SOURCE,
        ),
    ]
