"""`imtl-l`: learned scales that make all losses equally large."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.func import functional_call
from torchjd.scalarization import IMTLL

from hft_core.combiner import Combiner
from hft_core.options import Options as Options  # `imtl-l` has no options of its own


class ImpartialLosses(Combiner):
    """Combine by Σ_t exp(s_t)·loss_t − s_t with one learned s_t per task, initialized to 0.

    Source: Liu et al. 2021 (impartial multi-task learning, loss balance), ICLR, by torchjd's `IMTLL`.
    """

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__(tasks)
        self.scalarizer = IMTLL(len(tasks))

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        # Only the scales of present tasks enter: the −s of an absent one would be pushed up unopposed.
        log_scale = {"log_scale": self.scalarizer.log_scale[present]}
        total: Tensor = functional_call(self.scalarizer, log_scale, (losses,))
        return total


def build(options: Options, *, tasks: Sequence[str]) -> ImpartialLosses:
    return ImpartialLosses(tuple(tasks))
