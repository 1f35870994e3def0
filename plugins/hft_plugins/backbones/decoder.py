"""`hf-decoder`: an autoregressive decoder of transformers, from a folder, a hub id or a GGUF file."""

from __future__ import annotations

from transformers import AutoModelForCausalLM

from hft_plugins.backbones.options import DecoderOptions
from hft_plugins.backbones.pretrained import open_pretrained, refuse_other_kinds
from hft_plugins.backbones.trunk import HfBackbone


def build(options: DecoderOptions, *, trust_remote_code: bool = False) -> HfBackbone:
    """Open the decoder that `options.model` names; a GGUF file is dequantised to float32.

    Raises `ModelError` when it cannot be opened or is not a decoder.
    """
    refuse_other_kinds(options.model, "hf-decoder")
    opened = open_pretrained(options, (AutoModelForCausalLM,), trust_remote_code=trust_remote_code)
    return HfBackbone(opened, causal=True)
