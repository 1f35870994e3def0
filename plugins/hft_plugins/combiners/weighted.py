"""`weighted`: the tasks' mean losses added up, each times a fixed weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hft_core import options
from hft_core.combiner import Combiner
from hft_core.errors import PluginError, did_you_mean


class Options(options.Options):
    """A weight a task."""

    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="weight by task; a task that is not named has weight 1"
    )


class Weighted(Combiner):
    """Σ_t weight_t · loss_t."""

    def __init__(self, tasks: tuple[str, ...], weights: Sequence[float]) -> None:
        super().__init__(tasks)
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return (self.get_buffer("weights")[present] * losses).sum()


def build(options: Options, *, tasks: Sequence[str]) -> Weighted:
    """Raises `PluginError` when a weight names no task of the stage."""
    for name in options.weights:
        if name not in tasks:
            raise PluginError(
                f"combiner 'weighted': weights.{name}: no such task in the stage.{did_you_mean(name, tasks)}"
            )
    return Weighted(tuple(tasks), [options.weights.get(task, 1.0) for task in tasks])
