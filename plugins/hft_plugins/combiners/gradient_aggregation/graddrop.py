"""`graddrop`: keep the gradients of one randomly drawn sign in each component."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchjd.aggregation import GradDrop as TorchJDGradDrop

from hft_core.combiner import At
from hft_plugins.combiners.gradient_aggregation.gradients import GradientCombiner
from hft_plugins.combiners.gradient_aggregation.gradients import Options as Options


class GradDrop(GradientCombiner):
    """Combine by Σ_t G_t ⊙ 1[sign G_t = s], where s_i = +1 with probability ½ (1 + Σ_t G_ti / Σ_t |G_ti|).

    Source: Chen et al. 2020, arXiv:2010.06808, algorithm 1, without leak, by torchjd's `GradDrop`.
    """

    def __init__(self, tasks: tuple[str, ...], *, at: At) -> None:
        super().__init__(tasks, at=at)
        self.aggregator = TorchJDGradDrop()

    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Return the factors `[t, p]`: 1 where a gradient is kept, 0 where it is dropped."""
        combined = self.aggregator(gradients)  # its sign is the one that was drawn
        return (gradients.sign() == combined.sign()).to(gradients.dtype)


def build(options: Options, *, tasks: Sequence[str]) -> GradDrop:
    return GradDrop(tuple(tasks), at=options.at)
