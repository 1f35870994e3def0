"""`weighted`: add the mean losses of the tasks, each times a fixed weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from hft_core import options
from hft_core.combiner import Combiner
from hft_plugins.combiners.loss_weighting.by_task import by_task


class Options(options.Options):
    """Options of `weighted`: one weight per task."""

    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="weight by task; a task that is not named has weight 1"
    )


class Weighted(Combiner):
    """Combine by Σ_t weight_t · loss_t."""

    weights: Tensor

    def __init__(self, tasks: tuple[str, ...], weights: Tensor) -> None:
        super().__init__(tasks)
        self.register_buffer("weights", weights)

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return (self.weights[present] * losses).sum()


def build(options: Options, *, tasks: Sequence[str]) -> Weighted:
    """Raises `PluginError` when a weight names no task of the stage."""
    weights = by_task(options.weights, tasks, default=1.0, option="weights", combiner="weighted")
    return Weighted(tuple(tasks), weights)
