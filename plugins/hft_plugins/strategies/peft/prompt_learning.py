"""Prompt learning with PEFT: virtual tokens in front of every text, or in front of every layer's keys and values.

Nothing is injected: PEFT's own modules make the prompt, and the trunk is called with it in front. They are registered
inside the trunk, so that the optimizer and the checkpoints see them.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftConfig, PeftType, TaskType, get_peft_model_state_dict
from torch import Tensor

from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.strategy import TaskRows
from hft_plugins.strategies.peft.injected import Injected

MODULE = "prompt_encoder"
"""What the prompt's module is called inside the trunk, as in `PeftModel`."""

OWN_TOKENIZER = "trunk"
"""Stands for the backbone's own tokenizer, where a text is what the prompt begins with."""


class PromptLearning(Injected):
    """Train one prompt, shared by all tasks."""

    generates = False
    # PEFT has the prompt's weights, and those of its head, right below its own name.
    _head_prefix = "base_model."
    # Without a task type, PEFT would not put the prompt in.
    _task_type = TaskType.FEATURE_EXTRACTION

    def __init__(self, config: PeftConfig, name: str) -> None:
        super().__init__(config, name)
        fields: Any = config
        self.virtual_tokens = int(fields.num_virtual_tokens)
        # A prefix comes by the key-value cache, which a layer that is computed again does not take.
        self.recomputes = config.peft_type != PeftType.PREFIX_TUNING
        # All but prefixes are put in front of the words' embeddings, which are looked up outside of the trunk.
        self.divisible = config.peft_type == PeftType.PREFIX_TUNING

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Raises `PluginError` when the trunk cannot take a prompt."""
        if backbone.encoder_decoder:
            raise self._refusal("an encoder-decoder has no single text that virtual tokens could stand in front of")
        config: Any = self.config
        if getattr(config, "tokenizer_name_or_path", None) == OWN_TOKENIZER:
            config.tokenizer_name_or_path = backbone.source
        # PEFT does not find these in every family's configuration (DistilBERT's).
        config.token_dim = config.token_dim or backbone.hidden_size
        config.num_attention_heads = config.num_attention_heads or _heads(backbone)
        super().apply(backbone, tasks)

    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: TaskRows) -> Tensor:
        """The hidden states of the real positions.

        In a trunk that sees both ways, the first one is that of the first virtual token: it stands where classifiers
        look, as in PEFT's own models.
        """
        batch, length = inputs["input_ids"].shape
        count = self.virtual_tokens
        if length + count > backbone.max_length:
            raise PluginError(
                f"strategy '{self.name}': {count} virtual tokens and a text of {length} tokens are more than the "
                f"{backbone.max_length} that the backbone takes: set max_length of the task to at most "
                f"{backbone.max_length - count}"
            )
        prompt = self._model.get_prompt(batch)
        mask = inputs["attention_mask"]
        extended = {**inputs, "attention_mask": torch.cat((mask.new_ones(batch, count), mask), dim=1)}
        if not isinstance(prompt, Tensor):
            return backbone.forward({**extended, "past_key_values": prompt})  # in front of each layer's own
        words = self._model.word_embeddings(extended.pop("input_ids"))
        extended["inputs_embeds"] = torch.cat((prompt.to(words.dtype), words), dim=1)
        if "token_type_ids" in extended:
            kinds = extended["token_type_ids"]
            extended["token_type_ids"] = torch.cat((kinds.new_zeros(batch, count), kinds), dim=1)
        hidden = backbone.forward(extended)
        first = count if backbone.causal else 0
        return torch.cat((hidden[:, first : first + 1], hidden[:, count + 1 :]), dim=1)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Everything is among the trunk's parameters."""

    def fold(self, backbone: Backbone) -> None:
        raise self._refusal("a prompt cannot be merged into the trunk, so that no stage can follow")

    def _check_gradients(self, backbone: Backbone) -> None:
        cached = not isinstance(self._model.get_prompt(1), Tensor)
        if cached and "past_key_values" not in inspect.signature(backbone.trunk.forward).parameters:
            raise self._refusal(f"{type(backbone.trunk).__name__} takes no past key values, which are what it trains")
        super()._check_gradients(backbone)

    def _inject(self, backbone: Backbone, config: PeftConfig) -> None:
        if hasattr(backbone.trunk, MODULE):
            delattr(backbone.trunk, MODULE)
        super()._inject(backbone, config)
        backbone.trunk.add_module(MODULE, self._model.prompt_encoder)

    def _saved(self) -> tuple[Any, dict[str, Tensor]]:
        self._model.prompt_encoder.eval()  # the prompt is saved as its encoder makes it, without dropout
        return copy.deepcopy(self.config), get_peft_model_state_dict(self._model)

    def _prepare_loading(self, backbone: Backbone) -> None:
        config: Any = copy.deepcopy(self.config)
        config.inference_mode = True
        self._inject(backbone, config)


def _heads(backbone: Backbone) -> int | None:
    """The trunk's attention heads, where its configuration says so."""
    return getattr(getattr(backbone.trunk, "config", None), "num_attention_heads", None)
