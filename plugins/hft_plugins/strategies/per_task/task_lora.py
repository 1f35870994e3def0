"""`task-lora`: a LoRA for each task on one frozen trunk, all trained together in mixed batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from peft import LoraConfig
from pydantic import Field
from torch import Tensor

from hft_plugins.strategies.peft.adapter_folder import PREFIX
from hft_plugins.strategies.per_task import per_task_lora
from hft_plugins.strategies.per_task.grouped_matmul import LowRank
from hft_plugins.strategies.per_task.per_task_lora import PerTaskLora, fill, parts_of
from hft_plugins.strategies.per_task.routed_linear import Found, RoutedLinear, Size


class Options(per_task_lora.Options):
    """The usual fields of PEFT's `LoraConfig`, and where tasks differ."""

    task_r: dict[str, Annotated[int, Field(ge=1)]] = Field(default={}, description="rank by task, where it is not 'r'")
    task_lora_alpha: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={}, description="scale by task, where it is not 'lora_alpha'"
    )


class TaskLoraLinear(RoutedLinear):
    """Adds to a row what its task alone has trained."""

    def addition(self, task: str) -> LowRank | None:
        part = self.part(task)
        return part.low_rank() if part is not None else None


class TaskLora(PerTaskLora):
    """Train separate LoRAs for all tasks, in one forward pass through the frozen trunk."""

    name = "task-lora"

    def __init__(self, chosen: Options) -> None:
        super().__init__(chosen)
        self.task_r, self.task_lora_alpha = chosen.task_r, chosen.task_lora_alpha

    def layer(self, found: Found) -> RoutedLinear:
        return TaskLoraLinear(found, self.settings())

    def size_of(self, task: str) -> Size:
        return self.options.size(self.task_r.get(task), self.task_lora_alpha.get(task))

    def named_tasks(self) -> Collection[str]:
        return [*self.task_r, *self.task_lora_alpha]

    def lora_config(self, layers: Mapping[str, RoutedLinear], task: str, addition: LowRank) -> LoraConfig:
        """With the numbers that the part was trained with."""
        config = super().lora_config(layers, task, addition)
        part = next(iter(layers.values())).part(task)
        if part is not None:
            config.lora_alpha, config.use_rslora = part.size.lora_alpha, part.size.use_rslora
        return config

    def save_parts(self, layers: Mapping[str, RoutedLinear], task: str, folder: Path) -> None:
        """PEFT's file holds them already."""

    def load_parts(
        self, layers: Mapping[str, RoutedLinear], task: str, folder: Path, weights: Mapping[str, Tensor]
    ) -> None:
        current = parts_of(layers, task)
        if current:  # a task that no stage gave a part has an adapter that adds nothing
            fill(current, {n.removeprefix(PREFIX).removesuffix(".weight"): tensor for n, tensor in weights.items()})


def build(options: Options) -> TaskLora:
    return TaskLora(options)
