"""`hf-seq2seq`: an encoder-decoder of transformers (T5, BART, mBART, Pegasus, …) with its LM head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSeq2SeqLM, PreTrainedModel

from hft_core.errors import ModelError
from hft_plugins.backbones.options import Seq2SeqOptions
from hft_plugins.backbones.pretrained import Opened, open_pretrained, refuse_other_kinds
from hft_plugins.backbones.trunk import HfBackbone


class HfSeq2Seq(HfBackbone):
    """The trunk is the whole encoder-decoder without its LM head; its hidden states are the decoder's."""

    encoder_decoder = True
    splits = False

    read_input = "decoder_input_ids"

    def __init__(self, opened: Opened, trunk: PreTrainedModel) -> None:
        """Raises `ModelError` where a position of the decoder sees later ones, or its logits are not the plain
        class's."""
        super().__init__(opened, "hf-seq2seq", trunk)
        model, name = opened.options.model, type(trunk).__name__
        if not self.causal:
            raise ModelError(f"model '{model}': the decoder of {name} sees the tokens to come, expected a causal one")
        if self._language_model is None:
            raise ModelError(
                f"model '{model}': the logits of {type(opened.whole).__name__} do not follow from the hidden states of "
                f"{name} alone"
            )
        longest = self.default_length or self.max_length
        self.max_target_length = int(getattr(self.config, "max_decoder_position_embeddings", longest))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        given: dict[str, Any] = {name: tensor for name, tensor in inputs.items() if name != "token_type_ids"}
        if "decoder_input_ids" not in given:
            given["decoder_input_ids"] = self._shifted(given["input_ids"])
        hidden: Tensor = self.trunk(**given, use_cache=False).last_hidden_state
        return hidden

    def decoder_input_ids(self, labels: Sequence[int]) -> list[int]:
        shifted: list[int] = self._shifted(torch.tensor([labels]))[0].tolist()
        return shifted

    def _shifted(self, ids: Tensor) -> Tensor:
        """Families differ in what they put first: a start token, or the last one (mBART's language)."""
        assert self._language_model is not None, "every class of this kind has an LM head"
        whole: Any = self._language_model.whole
        if hasattr(whole, "prepare_decoder_input_ids_from_labels"):
            shifted: Tensor = whole.prepare_decoder_input_ids_from_labels(labels=ids)
            return shifted
        return torch.cat([torch.full_like(ids[:, :1], self.config.decoder_start_token_id), ids[:, :-1]], dim=1)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The encoder's layers, and then the decoder's."""
        trunk: Any = self.trunk
        return [layer for stack in (trunk.get_encoder(), trunk.get_decoder()) for layer in self._layers_of(stack)]

    def _layers_of(self, stack: nn.Module) -> nn.ModuleList:
        for module in stack.modules():
            if isinstance(module, nn.ModuleList):
                return module
        raise ModelError(f"model '{self._opened.options.model}': no layers were found in {type(stack).__name__}")


def build(options: Seq2SeqOptions, *, trust_remote_code: bool = False) -> HfSeq2Seq:
    """Open the encoder-decoder that `options.model` names.

    Raises `ModelError` when it cannot be opened or is no encoder-decoder.
    """
    refuse_other_kinds(options.model, "hf-seq2seq")
    opened = open_pretrained(options, (AutoModelForSeq2SeqLM,), trust_remote_code=trust_remote_code)
    return HfSeq2Seq(opened, _trunk_of(opened))


def _trunk_of(opened: Opened) -> PreTrainedModel:
    """The family's model without a head. T5's class with the LM head holds its parts itself: they are put together here
    as the headless class has them. Raises `ModelError` for a family that transformers has no headless class for."""
    whole = opened.whole
    if whole.base_model is not whole:
        inside: PreTrainedModel = whole.base_model  # type: ignore[assignment]
        return inside
    model = opened.options.model
    if type(whole.config) not in AutoModel._model_mapping:
        raise ModelError(
            f"model '{model}': transformers has no model without a head for type '{whole.config.model_type}'"
        )
    with torch.device("meta"):
        trunk: PreTrainedModel = AutoModel.from_config(whole.config, trust_remote_code=opened.trust_remote_code)
    for name, _ in list(trunk.named_children()):
        if hasattr(whole, name):
            setattr(trunk, name, getattr(whole, name))
    if any(parameter.is_meta for parameter in trunk.parameters()):
        raise ModelError(
            f"model '{model}': the parts of {type(trunk).__name__} were not found in {type(whole).__name__}"
        )
    return trunk
