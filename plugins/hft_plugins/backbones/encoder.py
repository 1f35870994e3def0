"""`hf-encoder`: a bidirectional encoder of transformers, with its masked-LM head."""

from __future__ import annotations

from transformers import AutoModel, AutoModelForMaskedLM

from hft_plugins.backbones.options import EncoderOptions
from hft_plugins.backbones.pretrained import open_pretrained, refuse_other_kinds
from hft_plugins.backbones.trunk import HfBackbone


def build(options: EncoderOptions, *, trust_remote_code: bool = False) -> HfBackbone:
    """Open the encoder that `options.model` names.

    Raises `ModelError` when it cannot be opened or is not an encoder.
    """
    refuse_other_kinds(options.model, "hf-encoder")
    opened = open_pretrained(options, (AutoModelForMaskedLM, AutoModel), trust_remote_code=trust_remote_code)
    return HfBackbone(opened, "hf-encoder")
