"""`gradnorm`: weights that balance gradient norms by how fast each task learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from hft_core.combiner import At
from hft_plugins.combiners.gradient_aggregation import gradients
from hft_plugins.combiners.gradient_aggregation.adam import Adam
from hft_plugins.combiners.gradient_aggregation.gradients import GradientCombiner

SMALLEST = 1e-3
"""No weight is trained below it: a negative one would make its task worse."""


class Options(gradients.Options):
    """Where the gradients are taken, and how the weights are learned."""

    alpha: float = Field(
        default=1.5,
        ge=0,
        allow_inf_nan=False,
        description="how strongly slow tasks are favoured; 0 gives all weighted gradients the same norm",
    )
    lr: float = Field(default=0.025, ge=0, allow_inf_nan=False, description="learning rate of the weights")


class GradNorm(GradientCombiner):
    """Combine by Σ_t w_t G_t, on the shared parameters and on the tasks' own.

    After each step, Adam updates the weights by the gradient of Σ_t |n_t − mean(n)·r_t^alpha|, where n_t = ‖w_t G_t‖
    and r_t is loss_t / first loss_t divided by its mean over the tasks (the relative inverse training rate). The
    targets mean(n)·r_t^alpha count as constants. Then the present tasks' weights are scaled to the sum that they had.

    Source: Chen et al. 2018, arXiv:1711.02257, algorithm 1.
    """

    by_products = True
    weighs_heads = True
    weights: Tensor
    first_losses: Tensor
    """`[tasks]` 0 for a task that was in no step yet."""
    norms: Tensor
    """`[tasks]` of the step's gradients, before they are weighed."""

    def __init__(self, tasks: tuple[str, ...], *, at: At, alpha: float, lr: float) -> None:
        super().__init__(tasks, at=at)
        self.alpha = alpha
        self.register_buffer("weights", torch.ones(len(tasks)))
        self.register_buffer("first_losses", torch.zeros(len(tasks)))
        self.register_buffer("norms", torch.zeros(len(tasks)))
        self.adam = Adam(len(tasks), lr=lr)

    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        self.norms[present] = torch.linalg.vector_norm(gradients, dim=1).to(self.norms)
        return self.weights[present].to(gradients)

    @torch.no_grad()
    def step_finished(self, losses: Tensor, present: Tensor) -> None:
        first = self.first_losses[present]
        first = torch.where(first == 0, losses, first)
        self.first_losses[present] = first
        tiny = torch.finfo(first.dtype).tiny
        ratios = (losses / first.clamp(min=tiny)).clamp(min=0)
        behind = ratios / ratios.mean().clamp(min=tiny)
        norms, weights = self.norms[present], self.weights[present]
        weighted = weights * norms
        self.adam.step(self.weights, (weighted - weighted.mean() * behind**self.alpha).sign() * norms, present)
        moved = self.weights[present].clamp(min=SMALLEST)
        self.weights[present] = moved * (weights.sum() / moved.sum())


def build(options: Options, *, tasks: Sequence[str]) -> GradNorm:
    return GradNorm(tuple(tasks), at=options.at, alpha=options.alpha, lr=options.lr)
