"""`famo`: weights that let all losses decrease at the same relative rate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from hft_core import options
from hft_core.combiner import Combiner
from hft_plugins.combiners.gradient_aggregation.adam import Adam
from hft_plugins.combiners.loss_weighting.by_task import by_task

EPS = 1e-8


class Options(options.Options):
    """How the weights are learned."""

    lr: float = Field(default=0.025, ge=0, allow_inf_nan=False, description="learning rate of the weights' logits")
    weight_decay: float = Field(default=1e-3, ge=0, allow_inf_nan=False, description="pulls the logits towards 0")
    min_losses: dict[str, float] = Field(
        default_factory=dict, description="the least that a task's loss can be; 0 for a task that is not named"
    )


class FastAdaptive(Combiner):
    """Combine by c·Σ_t z_t·log(loss_t − min_t), with z = softmax(w) and c such that the losses' weights sum to 1.

    After each step, the losses of its rows are recomputed; the logits w of tasks whose log-loss decreased more than the
    weighted mean decrease, those of the others increase. torchjd's `FAMO` is not used because it needs all tasks in
    every step and does not save Adam's state.

    Source: Liu et al. 2023, arXiv:2306.03792, algorithm 1.
    """

    linear = False
    losses_after_step = True
    min_losses: Tensor
    logits: Tensor
    losses: Tensor
    """`[tasks]` as they were before the step."""

    def __init__(self, tasks: tuple[str, ...], *, lr: float, weight_decay: float, min_losses: Tensor) -> None:
        super().__init__(tasks)
        self.register_buffer("min_losses", min_losses)
        self.register_buffer("logits", torch.zeros(len(tasks)))
        self.register_buffer("losses", torch.zeros(len(tasks)))
        self.adam = Adam(len(tasks), lr=lr, weight_decay=weight_decay)

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        self.losses[present] = losses.detach().to(self.losses)
        above = self._above(losses, present)
        shares = torch.softmax(self.logits[present], dim=0)
        scale = 1 / (shares / above.detach()).sum()
        return scale * (shares * above.log()).sum()

    @torch.no_grad()
    def step_finished(self, losses: Tensor, present: Tensor) -> None:
        fall = self._above(self.losses[present], present).log() - self._above(losses, present).log()
        fall = torch.where(torch.isfinite(fall), fall, 0.0)  # the next step will find the losses not finite
        shares = torch.softmax(self.logits[present], dim=0)
        self.adam.step(self.logits, shares * (fall - (shares * fall).sum()), present)

    def _above(self, losses: Tensor, present: Tensor) -> Tensor:
        """By how much each loss is above the least that it can be; never 0, so that it has a logarithm."""
        return (losses - self.min_losses[present]).clamp(min=0) + EPS


def build(options: Options, *, tasks: Sequence[str]) -> FastAdaptive:
    """Raises `PluginError` when `min_losses` names no task of the stage."""
    least = by_task(options.min_losses, tasks, default=0.0, option="min_losses", combiner="famo")
    return FastAdaptive(tuple(tasks), lr=options.lr, weight_decay=options.weight_decay, min_losses=least)
