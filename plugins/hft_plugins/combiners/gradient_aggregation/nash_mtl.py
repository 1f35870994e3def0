"""`nash-mtl`: the Nash bargaining solution among the tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torchjd.aggregation import FairGradWeighting

from hft_core.combiner import At
from hft_plugins.combiners.gradient_aggregation import gradients
from hft_plugins.combiners.gradient_aggregation.gramian_combiner import GramianCombiner


class Options(gradients.Options):
    """Where the gradients are taken, and how the bargain is used."""

    max_norm: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="largest norm of the combined gradient; 0: no limit"
    )
    update_weights_every: int = Field(default=1, ge=1, description="steps for which the weights are kept")


class NashBargaining(GramianCombiner):
    """Combine by Σ_t w_t G_t, where (G Gᵀ) w = 1/w, with the norm limited to `max_norm`.

    torchjd's `FairGradWeighting` solves this equation, which is its own at alpha 1. torchjd's `NashMTL` agrees with it
    where it converges; where the sum of the gradients conflicts with one of them, it mostly gives equal weights.

    Source: Navon et al. 2022, arXiv:2202.01017, equation 1 and algorithm 1.
    """

    weights: Tensor
    """`[tasks]` the latest weights, before `max_norm`; 0 for a task that had none yet."""
    steps: Tensor
    """`[]` number of calls."""

    def __init__(self, tasks: tuple[str, ...], *, at: At, max_norm: float, update_weights_every: int) -> None:
        super().__init__(tasks, at=at)
        self.max_norm, self.every = max_norm, update_weights_every
        self.weighting = FairGradWeighting(alpha=1.0)
        self.register_buffer("weights", torch.zeros(len(tasks)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def solve(self, gramian: Tensor, scale: Tensor, present: Tensor) -> Tensor:
        kept = self.weights[present]
        if int(self.steps) % self.every == 0 or bool((kept == 0).any()):
            # If w solves it for G, w / √scale does for scale·G.
            kept = self.weighting(gramian.cpu().double()).to(scale) / scale.sqrt()
            self.weights[present] = kept.to(self.weights)
        self.steps += 1
        kept = kept.to(gramian)
        norm = (scale * (kept @ gramian @ kept)).clamp(min=0).sqrt()
        return kept * (self.max_norm / norm) if 0 < self.max_norm < norm else kept


def build(options: Options, *, tasks: Sequence[str]) -> NashBargaining:
    return NashBargaining(
        tuple(tasks), at=options.at, max_norm=options.max_norm, update_weights_every=options.update_weights_every
    )
