"""`hf-decoder`: an autoregressive decoder of transformers, from a folder, a hub id or a GGUF file."""

from __future__ import annotations

from transformers import AutoModelForCausalLM

from hft_core.errors import ModelError
from hft_plugins.backbones.options import DecoderOptions, opens_encoder
from hft_plugins.backbones.trunk import HfBackbone, open_pretrained


def build(options: DecoderOptions, *, trust_remote_code: bool = False) -> HfBackbone:
    """Open the decoder that `options.model` names; a GGUF file is dequantised to float32.

    Raises `ModelError` when it cannot be opened or is not a decoder.
    """
    if opens_encoder(options.model):
        raise ModelError(f"model '{options.model}' is a bidirectional encoder: open it with 'hf-encoder'")
    return open_pretrained(options, (AutoModelForCausalLM,), causal=True, trust_remote_code=trust_remote_code)
