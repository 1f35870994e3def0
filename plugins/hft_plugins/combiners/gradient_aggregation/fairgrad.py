"""`fairgrad`: combine gradients so that the decrease of the losses is alpha-fair."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor
from torchjd.aggregation import FairGradWeighting

from hft_core.combiner import At
from hft_plugins.combiners.gradient_aggregation import gradients
from hft_plugins.combiners.gradient_aggregation.gramian_combiner import GramianCombiner


class Options(gradients.Options):
    """Where the gradients are taken, and the kind of fairness."""

    alpha: float = Field(
        default=2.0,
        gt=0,
        allow_inf_nan=False,
        description="1: proportional fairness, as nash-mtl; 2: minimum potential delay; towards infinity: max-min",
    )


class FairGrad(GramianCombiner):
    """Combine by Σ_t w_t G_t, where (G Gᵀ) w = w^(−1/alpha): the alpha-fair solution.

    Source: Ban and Ji 2024, arXiv:2402.15638, equation 4, by torchjd's `FairGradWeighting`.
    """

    def __init__(self, tasks: tuple[str, ...], *, at: At, alpha: float) -> None:
        super().__init__(tasks, at=at)
        self.weighting = FairGradWeighting(alpha=alpha)
        # If w solves it for a Gramian, scale^(−alpha / (1 + alpha))·w does for scale times that Gramian.
        self.degree = -alpha / (1 + alpha)

    def solve(self, gramian: Tensor, scale: Tensor, present: Tensor) -> Tensor:
        return self.weighting(gramian.cpu().double()).to(gramian) * scale**self.degree


def build(options: Options, *, tasks: Sequence[str]) -> FairGrad:
    return FairGrad(tuple(tasks), at=options.at, alpha=options.alpha)
