"""`uncertainty`: weight each loss by the learned uncertainty of its task."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.func import functional_call
from torchjd.scalarization import UW

from hft_core.combiner import Combiner
from hft_core.options import Options as Options  # `uncertainty` has no options of its own


class Uncertainty(Combiner):
    """Combine by Σ_t ½·exp(−s_t)·loss_t + ½·s_t with one learned log-variance s_t per task, initialized to 0.

    Source: Kendall, Gal and Cipolla 2018, arXiv:1705.07115, by torchjd's `UW`.
    """

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__(tasks)
        self.scalarizer = UW(len(tasks))

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        # Only the log-variances of present tasks enter: the ½·s of an absent one would be pushed down unopposed.
        log_var = {"log_var": self.scalarizer.log_var[present]}
        total: Tensor = functional_call(self.scalarizer, log_var, (losses,))
        return total


def build(options: Options, *, tasks: Sequence[str]) -> Uncertainty:
    return Uncertainty(tuple(tasks))
