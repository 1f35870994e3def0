"""`hf-encoder`: a bidirectional encoder of transformers, with its masked-LM head."""

from __future__ import annotations

from transformers import AutoModel, AutoModelForMaskedLM

from hft_core.errors import ModelError
from hft_plugins.backbones.options import EncoderOptions, opens_decoder
from hft_plugins.backbones.trunk import HfBackbone, open_pretrained


def build(options: EncoderOptions, *, trust_remote_code: bool = False) -> HfBackbone:
    """Open the encoder that `options.model` names.

    Raises `ModelError` when it cannot be opened or is not an encoder.
    """
    if opens_decoder(options.model):
        raise ModelError(f"model '{options.model}' is an autoregressive decoder: open it with 'hf-decoder'")
    return open_pretrained(
        options, (AutoModelForMaskedLM, AutoModel), causal=False, trust_remote_code=trust_remote_code
    )
