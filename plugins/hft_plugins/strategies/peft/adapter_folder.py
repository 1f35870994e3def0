"""Write and read an adapter in PEFT's format, for the plain class that has trunk and head together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from peft import TaskType
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
    config: Any,
    weights: Mapping[str, Tensor],
    *,
    base: str,
    plain_class: str,
    head: Mapping[str, Tensor],
    task_type: TaskType | None = None,
    head_prefix: str = PREFIX,
) -> None:
    """Write an adapter of `backbone`'s trunk into `folder`.

    `config`: PEFT's own, each method's with fields of its own; it is completed here. `weights`: by PEFT's names on the
    trunk alone (`base_model.model.encoder.layer.0.…query.lora_A.weight`). `task_type`: what PEFT is to take the class
    for where it has no name for it; `head_prefix`: where PEFT has the weights of a head. The others are as in
    `Strategy.save_adapter`.
    """
    prefix = PREFIX + backbone.prefix_in(plain_class) if plain_class else PREFIX
    state = {_moved(name, PREFIX, prefix): tensor for name, tensor in weights.items()}
    state |= {f"{head_prefix}{name}": tensor for name, tensor in head.items()}
    config.base_model_name_or_path = base
    config.task_type = TASK_TYPES.get(plain_class, task_type)
    config.inference_mode = True
    config.modules_to_save = sorted({_top(name, backbone.trunk_prefix) for name in head}) or None
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file(on_disk(state), folder / WEIGHTS_FILE, metadata={"format": "pt"})


def read_adapter(
    folder: Path, backbone: Backbone, head: Collection[str], *, head_prefix: str = PREFIX
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read the weights that `write_adapter` wrote, by PEFT's names on the trunk alone, and those of `head`."""
    state = load_file(folder / WEIGHTS_FILE)
    head_state = {name: state.pop(head_prefix + name) for name in head if head_prefix + name in state}
    inside = f"{PREFIX}{backbone.trunk_prefix}."
    prefix = inside if any(name.startswith(inside) for name in state) else PREFIX
    return {_moved(name, prefix, PREFIX): tensor for name, tensor in state.items()}, head_state


def on_disk(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the tensors to the CPU, contiguous and without shared memory, as safetensors needs them."""
    return {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in state.items()}


def _moved(name: str, old: str, new: str) -> str:
    return new + name.removeprefix(old) if name.startswith(old) else name


def _top(name: str, trunk_prefix: str) -> str:
    """The module of the plain class that PEFT shall save whole: `classifier`, or the trunk's `pooler`."""
    parts = name.split(".")
    return parts[1] if parts[0] == trunk_prefix else parts[0]
