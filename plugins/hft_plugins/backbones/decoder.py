"""`hf-decoder`: an autoregressive decoder of transformers, from a folder, a hub id or a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from torch import Tensor
from transformers import AutoModelForCausalLM

from hft_core.errors import ModelError
from hft_plugins.backbones import packing
from hft_plugins.backbones.options import DecoderOptions
from hft_plugins.backbones.pretrained import Opened, open_pretrained, refuse_other_kinds
from hft_plugins.backbones.split import Split
from hft_plugins.backbones.trunk import HfBackbone

INPUTS = {"input_ids", "attention_mask"}


class PackedDecoder(HfBackbone):
    """A decoder that computes no padding: a batch goes through it with its rows laid end to end. Where a strategy puts
    something in front of the texts, and in the two parts of a divided pass, it goes through as it is."""

    packs = True

    def __init__(self, opened: Opened) -> None:
        """Raises `ModelError` where the texts of a row would see one another."""
        super().__init__(opened, "hf-decoder")
        attention = str(self.config.get_text_config()._attn_implementation)
        if attention not in ("eager", "sdpa"):
            raise ModelError(
                f"model '{opened.options.model}': 'packing' takes attn_implementation 'eager' or 'sdpa', found "
                f"'{attention}'"
            )
        if not packing.isolates(self.trunk, super().forward, self.config.get_text_config().vocab_size):
            raise ModelError(
                f"model '{opened.options.model}': 'packing' needs a trunk whose position_ids keep the texts of a row "
                f"apart, and those of {type(self.trunk).__name__} do not: leave it out"
            )

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        packed = packing.pack(**inputs) if inputs.keys() == INPUTS else None
        if packed is None:
            return super().forward(inputs)
        return packed.unpacked(super().forward(packed.inputs))

    @cached_property
    def _split(self) -> Split:
        return Split(self._stack, super().forward)


def build(options: DecoderOptions, *, trust_remote_code: bool = False) -> HfBackbone:
    """Open the decoder that `options.model` names; a GGUF file is dequantized to float32.

    Raises `ModelError` when it cannot be opened, is not a decoder, or cannot be packed where the options ask for it.
    """
    refuse_other_kinds(options.model, "hf-decoder")
    opened = open_pretrained(options, (AutoModelForCausalLM,), trust_remote_code=trust_remote_code)
    return PackedDecoder(opened) if options.packing else HfBackbone(opened, "hf-decoder")
