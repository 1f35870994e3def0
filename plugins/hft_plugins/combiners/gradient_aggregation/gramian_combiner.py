"""The base of combiners whose weights are a function of the gradients' Gramian."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hft_core.combiner import At
from hft_plugins.combiners.gradient_aggregation.gradients import GradientCombiner


class GramianCombiner(GradientCombiner):
    """Combine by Σ_t w_t G_t, where w is a function of the Gramian G Gᵀ `[t, t]` alone.

    The Gramian is divided by its scale first, so that a solver's absolute tolerance (torchjd takes a Gramian of trace
    under 1e-4 for zero) is relative to the gradients, which shrink during training.
    """

    by_products = True

    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        gradients = gradients.to(torch.promote_types(gradients.dtype, torch.float32))
        gramian = gradients @ gradients.T
        scale = gramian.diagonal().mean()
        # Without any gradient, or with a non-finite one, the weights have no effect.
        if not bool(torch.isfinite(gramian).all()) or bool(scale < torch.finfo(scale.dtype).tiny):
            return torch.ones_like(gramian[0])
        return self.solve(gramian / scale, scale, present).to(gramian)

    def solve(self, gramian: Tensor, scale: Tensor, present: Tensor) -> Tensor:
        """Return the weights `[t]` for present tasks with the Gramian `scale * gramian` `[t, t]`."""
        raise NotImplementedError


class TorchJD(GramianCombiner):
    """Weight by one of torchjd's weightings, which must not depend on the scale of the Gramian."""

    def __init__(self, tasks: tuple[str, ...], *, at: At, weighting: Callable[[Tensor], Tensor]) -> None:
        super().__init__(tasks, at=at)
        self.weighting = weighting

    def solve(self, gramian: Tensor, scale: Tensor, present: Tensor) -> Tensor:
        return self.weighting(gramian)
