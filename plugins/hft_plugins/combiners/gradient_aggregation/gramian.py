"""Combiners of gradients whose weights come from the gradients' Gramian, by torchjd or by a rule of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hft_core.combiner import At
from hft_plugins.combiners.gradient_aggregation.gradients import GradientCombiner


class GramianCombiner(GradientCombiner):
    """Combines gradients by weights that depend on their products with each other alone.

    The products are divided by their scale first, so that what a solver holds for small (torchjd takes a Gramian of
    trace under 1e-4 for zero) is small beside the gradients, which shrink as the training goes on.
    """

    by_products = True

    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        gradients = gradients.to(torch.promote_types(gradients.dtype, torch.float32))
        gramian = gradients @ gradients.T
        scale = gramian.diagonal().mean()
        # No gradient at all, or one that is not finite: the step moves nothing, whatever the weights are.
        if not bool(torch.isfinite(gramian).all()) or bool(scale < torch.finfo(scale.dtype).tiny):
            return torch.ones_like(gramian[0])
        return self.solve(gramian / scale, scale, present).to(gramian)

    def solve(self, gramian: Tensor, scale: Tensor, present: Tensor) -> Tensor:
        """The weights `[t]` of the present tasks' gradients, whose Gramian `[t, t]` is `scale * gramian`."""
        raise NotImplementedError


class TorchJD(GramianCombiner):
    """Weighs by one of torchjd's weightings, which must not depend on the scale of the Gramian."""

    def __init__(self, tasks: tuple[str, ...], *, at: At, weighting: Callable[[Tensor], Tensor]) -> None:
        super().__init__(tasks, at=at)
        self.weighting = weighting

    def solve(self, gramian: Tensor, scale: Tensor, present: Tensor) -> Tensor:
        return self.weighting(gramian)
