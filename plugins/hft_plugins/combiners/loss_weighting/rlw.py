"""`rlw`: random weights, drawn at each step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchjd.scalarization import Random

from hft_core.combiner import Combiner
from hft_core.options import Options as Options  # `rlw` has no options of its own


class RandomLossWeighting(Combiner):
    """Combine by Σ_t weight_t · loss_t, where weight = softmax(z) and z ~ N(0, I) is drawn at each step.

    Source: Lin et al. 2022, arXiv:2111.10603, algorithm 2, by torchjd's `Random`.
    """

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__(tasks)
        self.scalarizer = Random()

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return self.scalarizer(losses)


def build(options: Options, *, tasks: Sequence[str]) -> RandomLossWeighting:
    return RandomLossWeighting(tuple(tasks))
