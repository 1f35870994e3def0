"""`graddrop`: in each component, the gradients of one sign only, drawn by how much that sign prevails."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchjd.aggregation import GradDrop as TorchJDGradDrop

from hft_core.combiner import At
from hft_plugins.combiners.gradient_aggregation.gradients import GradientCombiner
from hft_plugins.combiners.gradient_aggregation.gradients import Options as Options


class GradDrop(GradientCombiner):
    """For each component, a sign is drawn with the probability of its share in the gradients' absolute sum; the
    gradients of the other sign are dropped there and the others added up.

    Source: Chen et al. 2020, arXiv:2010.06808, algorithm 1, without leak, by torchjd's `GradDrop`.
    """

    def __init__(self, tasks: tuple[str, ...], *, at: At) -> None:
        super().__init__(tasks, at=at)
        self.aggregator = TorchJDGradDrop()

    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """The factors `[t, p]`: 1 where a gradient was kept, 0 where it was dropped."""
        combined = self.aggregator(gradients)  # its sign is the one that was drawn
        return (gradients.sign() == combined.sign()).to(gradients.dtype)


def build(options: Options, *, tasks: Sequence[str]) -> GradDrop:
    return GradDrop(tuple(tasks), at=options.at)
