"""An adapter folder as PEFT writes it for the plain class that has trunk and head together, and the way back."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path

from peft import LoraConfig, TaskType
from safetensors.torch import load_file, save_file
from torch import Tensor

from hft_core.backbone import Backbone

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

TASK_TYPES = {
    "AutoModelForSequenceClassification": TaskType.SEQ_CLS,
    "AutoModelForTokenClassification": TaskType.TOKEN_CLS,
    "AutoModelForQuestionAnswering": TaskType.QUESTION_ANS,
    "AutoModelForCausalLM": TaskType.CAUSAL_LM,
    "AutoModelForSeq2SeqLM": TaskType.SEQ_2_SEQ_LM,
}
"""PEFT's names for some plain classes; the others have none, and need none to be opened."""


def write(
    folder: Path,
    backbone: Backbone,
    config: LoraConfig,
    weights: Mapping[str, Tensor],
    *,
    base: str,
    plain_class: str,
    head: Mapping[str, Tensor],
) -> None:
    """`weights`: the factors by their names inside the trunk (`layer.0.query.lora_A.weight`); the others as in
    `Strategy.save_adapter`."""
    inside = PREFIX + backbone.prefix_in(plain_class) if plain_class else PREFIX
    state = {inside + name: tensor for name, tensor in weights.items()}
    state |= {PREFIX + name: tensor for name, tensor in head.items()}
    written = copy.deepcopy(config)
    written.base_model_name_or_path = base
    written.task_type = TASK_TYPES.get(plain_class)
    written.inference_mode = True
    # By full names: on the plain class, a pattern might fit the head's layers as well.
    written.target_modules = sorted({name.partition(".lora_")[0] for name in weights})
    written.modules_to_save = sorted({_top(name, backbone.trunk_prefix) for name in head}) or None
    folder.mkdir(parents=True, exist_ok=True)
    written.save_pretrained(str(folder))
    on_disk = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
    save_file(on_disk, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def read(folder: Path, backbone: Backbone, head: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `write` wrote: the factors by their names inside the trunk, and those of `head` that are there."""
    state = load_file(folder / WEIGHTS_FILE)
    found = {name: state.pop(PREFIX + name) for name in head if PREFIX + name in state}
    inside = f"{PREFIX}{backbone.trunk_prefix}."
    prefix = inside if any(name.startswith(inside) for name in state) else PREFIX
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}, found


def _top(name: str, trunk_prefix: str) -> str:
    """The module of the plain class that PEFT shall save whole: `classifier`, or the trunk's `pooler`."""
    parts = name.split(".")
    return parts[1] if parts[0] == trunk_prefix else parts[0]
