"""`mtl-lora`: one shared A, a transformation of its output by task, and shared Bs that each task weighs for itself.

Yang et al. 2024, arXiv:2410.09437: `h = W x + s · Σ_i softmax(w_t / τ)_i B_i Λ_t A x`, s being LoRA's scaling.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from pydantic import Field
from torch import nn

from hft_plugins.strategies.per_task import per_task_lora
from hft_plugins.strategies.per_task.grouped_matmul import LowRank
from hft_plugins.strategies.per_task.per_task_lora import PerTaskLora
from hft_plugins.strategies.per_task.routed_linear import Found, RoutedLinear, Size


class Options(per_task_lora.Options):
    """Fields of PEFT's `LoraConfig`, and the paper's n and τ by the names and values of its code."""

    num_B: int = Field(default=3, ge=1, description="number of Bs")  # noqa: N815
    temperature: float = Field(default=0.1, gt=0, description="softmax temperature of the tasks' weights on the Bs")


class MtlLoraPart(nn.Module):
    """The parameters of one task. As in the paper's code, Λ begins as the identity; the weights begin at random,
    because Bs that are weighed alike would have the same gradient for ever."""

    def __init__(self, layer: RoutedLinear, size: Size, count: int) -> None:
        super().__init__()
        self.size = size
        self.lora_lambda = layer.zeros(size.r, size.r)
        self.lora_B_w = layer.zeros(count)
        nn.init.eye_(self.lora_lambda)
        nn.init.uniform_(self.lora_B_w, -1 / math.sqrt(count), 1 / math.sqrt(count))


class MtlLoraLinear(RoutedLinear):
    """Adds to a row the LoRA that the shared A and Bs are for its task."""

    def __init__(self, found: Found, settings: dict[str, Any], size: Size, temperature: float) -> None:
        super().__init__(found, settings)
        self.size, self.count, self.temperature = size, settings["num_B"], temperature
        self.shared.lora_A = self.kaiming(size.r, self.in_features)
        self.shared.lora_B = self.zeros(self.count, self.out_features, size.r)

    def new_part(self, size: Size) -> nn.Module:
        return MtlLoraPart(self, size, self.count)

    def addition(self, task: str) -> LowRank:
        """A task without a part of its own weighs the Bs alike and has the identity for Λ."""
        shared, part = self.shared, self.part(task)
        if part is None:
            return LowRank(shared.lora_A, shared.lora_B.mean(dim=0), self.size.scaling)
        weights = torch.softmax(part.lora_B_w / self.temperature, dim=0)
        up = (weights @ shared.lora_B.flatten(1)).view(shared.lora_B.shape[1:]) @ part.lora_lambda
        return LowRank(shared.lora_A, up, self.size.scaling)


class MtlLora(PerTaskLora):
    """Share the large matrices between tasks; per-task parameters are small."""

    name = "mtl-lora"

    def __init__(self, chosen: Options) -> None:
        super().__init__(chosen)
        self.num_b, self.temperature = chosen.num_B, chosen.temperature

    def layer(self, found: Found) -> RoutedLinear:
        return MtlLoraLinear(found, self.settings(), self.options.size(), self.temperature)

    def settings(self) -> dict[str, Any]:
        size = dataclasses.asdict(self.options.size())
        return {**size, "num_B": self.num_b, "temperature": self.temperature}


def build(options: Options) -> MtlLora:
    return MtlLora(options)
