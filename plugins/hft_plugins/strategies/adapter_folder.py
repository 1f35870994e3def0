"""An adapter in PEFT's own format: written as PEFT would on the plain class that has trunk and head together, so that
PEFT opens it on that class, and read back."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftConfig, TaskType
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


def write_adapter(
    folder: Path,
    backbone: Backbone,
    config: PeftConfig,
    weights: Mapping[str, Tensor],
    *,
    targets: Sequence[str],
    base: str,
    plain_class: str,
    head: Mapping[str, Tensor],
) -> None:
    """Write an adapter of `backbone`'s trunk into `folder`.

    `weights`: by PEFT's names inside the trunk (`encoder.layer.0.…query.lora_A.weight`); `targets`: the trunk's modules
    that it adds to; the others as in `Strategy.save_adapter`.
    """
    trunk = PREFIX + backbone.prefix_in(plain_class) if plain_class else PREFIX
    state = {f"{trunk}{name}": tensor for name, tensor in weights.items()}
    state |= {f"{PREFIX}{name}": tensor for name, tensor in head.items()}
    written: Any = copy.deepcopy(config)  # each method's configuration has fields of its own
    written.base_model_name_or_path = base
    written.task_type = TASK_TYPES.get(plain_class)
    written.inference_mode = True
    written.target_modules = sorted(targets)
    written.modules_to_save = sorted({_top(name, backbone.trunk_prefix) for name in head}) or None
    folder.mkdir(parents=True, exist_ok=True)
    written.save_pretrained(folder)
    save_file(on_disk(state), folder / WEIGHTS_FILE, metadata={"format": "pt"})


def read_adapter(
    folder: Path, backbone: Backbone, head: Collection[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `write_adapter` wrote: the weights by PEFT's names inside the trunk, and those of `head` that are there."""
    state = load_file(folder / WEIGHTS_FILE)
    found = {name: state.pop(PREFIX + name) for name in head if PREFIX + name in state}
    inside = f"{PREFIX}{backbone.trunk_prefix}."
    prefix = inside if any(name.startswith(inside) for name in state) else PREFIX
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}, found


def on_disk(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them: on the CPU, contiguous, no memory in common."""
    return {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in state.items()}


def _top(name: str, trunk_prefix: str) -> str:
    """The module of the plain class that PEFT shall save whole: `classifier`, or the trunk's `pooler`."""
    parts = name.split(".")
    return parts[1] if parts[0] == trunk_prefix else parts[0]
