"""`shared-task-lora`: one LoRA that all tasks share and one for each task, added."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Annotated, Any

import torch
from pydantic import Field

from hft_plugins.strategies.per_task import per_task_lora
from hft_plugins.strategies.per_task.grouped_matmul import LowRank
from hft_plugins.strategies.per_task.per_task_lora import PerTaskLora
from hft_plugins.strategies.per_task.routed_linear import Found, LoraPart, RoutedLinear, Size

Rank = Annotated[int, Field(ge=1)]
TASK_R = 8


class Options(per_task_lora.Options):
    """Fields of PEFT's `LoraConfig`: `r` and `lora_alpha` are those of the shared LoRA."""

    task_r: Rank | dict[str, Rank] = Field(
        default=TASK_R,
        description=f"rank of the tasks' own LoRAs: one for all, or by task ({TASK_R} for those left out)",
    )
    task_lora_alpha: int | None = Field(
        default=None, ge=1, description="scale of the tasks' own LoRAs; 2·task_r when left out"
    )


class SharedTaskLoraLinear(RoutedLinear):
    """Adds one LoRA to all rows and another by task: both are one LoRA, of the sum of their ranks."""

    def __init__(self, found: Found, settings: dict[str, Any], size: Size) -> None:
        super().__init__(found, settings)
        self.shared = LoraPart(self, size)

    def addition(self, task: str) -> LowRank:
        parts = [part.low_rank() for part in (self.shared, self.part(task)) if part is not None]
        down = torch.cat([part.down for part in parts])
        return LowRank(down, torch.cat([part.up * part.scaling for part in parts], dim=1), 1.0)


class SharedTaskLora(PerTaskLora):
    """Add a LoRA shared by all tasks and one per task."""

    name = "shared-task-lora"

    def __init__(self, chosen: Options) -> None:
        super().__init__(chosen)
        self.task_r = chosen.task_r if isinstance(chosen.task_r, dict) else {}
        self.other_r = TASK_R if isinstance(chosen.task_r, dict) else chosen.task_r
        self.task_lora_alpha = chosen.task_lora_alpha

    def layer(self, found: Found) -> RoutedLinear:
        return SharedTaskLoraLinear(found, self.settings(), self.options.size())

    def settings(self) -> dict[str, Any]:
        return dataclasses.asdict(self.options.size())

    def size_of(self, task: str) -> Size:
        r = self.task_r.get(task, self.other_r)
        return Size(r, self.task_lora_alpha or 2 * r, self.options.use_rslora)

    def named_tasks(self) -> Collection[str]:
        return self.task_r


def build(options: Options) -> SharedTaskLora:
    return SharedTaskLora(options)
