"""`pcgrad`: each task's gradient projected away from those it conflicts with (gradient surgery)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchjd.aggregation import PCGrad

from hft_core.combiner import Combiner
from hft_core.options import Options as Options  # `pcgrad` has no options of its own


class ProjectedGradients(Combiner):
    """For each task, its gradient minus its components along the gradients it has a negative product with, taken in a
    random order; the results are added up.

    Source: Yu et al. 2020, arXiv:2001.06782, algorithm 1, by torchjd's `PCGrad`.
    """

    per_task_gradients = True

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__(tasks)
        self.aggregator = PCGrad()

    def aggregate(self, gradients: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.aggregator.gramian_weighting(gradients @ gradients.T)
        return weights @ gradients, weights


def build(options: Options, *, tasks: Sequence[str]) -> ProjectedGradients:
    return ProjectedGradients(tuple(tasks))
