"""`stch`: a smooth maximum of the weighted losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torchjd.scalarization import STCH

from hft_core import options
from hft_core.combiner import Combiner
from hft_plugins.combiners.loss_weighting.by_task import by_task


class Options(options.Options):
    """How smooth the maximum is, and how much each task matters."""

    mu: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="smoothness; towards 0, the largest weighted loss alone"
    )
    weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="preference by task; a task that is not named has 1"
    )


class SmoothTchebycheff(Combiner):
    """Combine by μ·log Σ_t exp(λ_t·loss_t / μ), with preferences λ that sum to 1 over the tasks of the step.

    Source: Lin et al. 2024 (smooth Tchebycheff scalarization), arXiv:2402.19078, by torchjd's `STCH`; the ideal point
    is 0, the least that a loss can be.
    """

    linear = False
    weights: Tensor

    def __init__(self, tasks: tuple[str, ...], *, mu: float, weights: Tensor) -> None:
        super().__init__(tasks)
        self.mu = mu
        self.register_buffer("weights", weights)

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        weights = self.weights[present]
        return STCH(self.mu, weights=weights / weights.sum())(losses)


def build(options: Options, *, tasks: Sequence[str]) -> SmoothTchebycheff:
    """Raises `PluginError` when a weight names no task of the stage."""
    weights = by_task(options.weights, tasks, default=1.0, option="weights", combiner="stch")
    return SmoothTchebycheff(tuple(tasks), mu=options.mu, weights=weights)
