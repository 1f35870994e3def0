"""`geometric-mean`: the geometric mean of the losses, so that relative changes of all losses count equally."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchjd.scalarization import GeometricMean as TorchJDGeometricMean

from hft_core.combiner import Combiner
from hft_core.options import Options as Options  # `geometric-mean` has no options of its own

SMALLEST = 1e-8
"""A loss below it is taken for it and has weight 0: the logarithm has no value at 0."""


class GeometricMean(Combiner):
    """Combine by (Π_t loss_t)^(1/T) over the T tasks of the step.

    Source: Chennupati et al. 2019 (the geometric loss strategy, GLS), arXiv:1904.08492, by torchjd's `GeometricMean`.
    """

    linear = False

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__(tasks)
        self.scalarizer = TorchJDGeometricMean()

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return self.scalarizer(losses.clamp(min=SMALLEST))


def build(options: Options, *, tasks: Sequence[str]) -> GeometricMean:
    return GeometricMean(tuple(tasks))
