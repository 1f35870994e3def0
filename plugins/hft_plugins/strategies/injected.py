"""Any PEFT method that is injected into the trunk: put in, folded away, saved and loaded in PEFT's own format.

The trunk alone is given to PEFT, so that heads stay trainable; a saved adapter names its modules and weights as PEFT
would on the plain class that has trunk and head together, and PEFT opens it on that class.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftType, TaskType, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.strategy import Strategy

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

TASK_TYPES = {
    "AutoModelForSequenceClassification": TaskType.SEQ_CLS,
    "AutoModelForTokenClassification": TaskType.TOKEN_CLS,
    "AutoModelForQuestionAnswering": TaskType.QUESTION_ANS,
    "AutoModelForCausalLM": TaskType.CAUSAL_LM,
}
"""PEFT's names for some plain classes; the others have none, and need none to be opened."""


class Injected(Strategy):
    """One adapter, shared by all tasks."""

    # About ten times full fine-tuning's: "LoRA Without Regret" (Thinking Machines 2025).
    learning_rate = 5e-4
    adapter = True

    def __init__(self, config: PeftConfig, name: str) -> None:
        self.config = config
        self.name = name
        self._tuner: Any = None

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Raises `PluginError` with PEFT's reason when PEFT refuses the configuration on this trunk."""
        backbone.trunk.requires_grad_(False)
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(self.config.peft_type)]
        try:
            self._tuner = tuner(backbone.trunk, copy.deepcopy(self.config), "default")
        except (ValueError, TypeError, NotImplementedError) as error:
            raise PluginError(f"strategy '{self.name}': PEFT refuses: {' '.join(str(error).split())[:300]}") from error

    def fold(self, backbone: Backbone) -> None:
        self._tuner.merge_and_unload(safe_merge=True)
        # PEFT leaves its configuration on the module, and would warn of a second adapter in the next stage.
        vars(backbone.trunk).pop("peft_config", None)
        self._tuner = None

    def base_state(self, backbone: Backbone) -> dict[str, Tensor]:
        adapter = {id(tensor) for tensor in self._state(backbone).values()}
        return {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in backbone.trunk.state_dict(keep_vars=True).items()
            if id(tensor) not in adapter
        }

    def save_adapter(
        self, backbone: Backbone, folder: Path, base: str, plain_class: str, head: Mapping[str, Tensor]
    ) -> None:
        trunk = f"{PREFIX}{backbone.trunk_prefix}." if plain_class else PREFIX
        state = {f"{trunk}{name}": tensor for name, tensor in get_peft_model_state_dict(backbone.trunk).items()}
        state |= {f"{PREFIX}{name}": tensor for name, tensor in head.items()}
        config: Any = copy.deepcopy(self.config)  # each method's configuration has fields of its own
        config.base_model_name_or_path = base
        config.task_type = TASK_TYPES.get(plain_class)
        config.inference_mode = True
        config.target_modules = sorted(
            name for name, layer in backbone.trunk.named_modules() if isinstance(layer, BaseTunerLayer)
        )
        config.modules_to_save = sorted({_top(name, backbone.trunk_prefix) for name in head}) or None
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(folder)
        plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in state.items()}
        save_file(plain, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    def load_adapter(self, backbone: Backbone, folder: Path, head: Collection[str]) -> dict[str, Tensor]:
        """Raises `ValueError` when the file's weights are not those of the trunk's adapter."""
        state = load_file(folder / WEIGHTS_FILE)
        found = {name: state.pop(PREFIX + name) for name in head if PREFIX + name in state}
        inside = f"{PREFIX}{backbone.trunk_prefix}."
        prefix = inside if any(name.startswith(inside) for name in state) else PREFIX
        given = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        wrong = sorted(given.keys() ^ get_peft_model_state_dict(backbone.trunk).keys())
        if wrong:
            raise ValueError(f"{len(wrong)} adapter weights are missing or not known: {', '.join(wrong[:3])}, …")
        set_peft_model_state_dict(backbone.trunk, given)
        return found

    def _state(self, backbone: Backbone) -> dict[str, Tensor]:
        """The adapter's parameters, by their names in the trunk."""
        prefix = self._tuner.prefix
        return {n: p for n, p in backbone.trunk.state_dict(keep_vars=True).items() if prefix in n}


def _top(name: str, trunk_prefix: str) -> str:
    """The module of the plain class that PEFT shall save whole: `classifier`, or the trunk's `pooler`."""
    parts = name.split(".")
    return parts[1] if parts[0] == trunk_prefix else parts[0]
