"""`dwa`: higher weights for losses that decreased less from one epoch to the next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from hft_core import options
from hft_core.combiner import Combiner


class Options(options.Options):
    """How unlike the weights are."""

    temperature: float = Field(
        default=2.0, gt=0, allow_inf_nan=False, description="the larger, the more alike the weights are"
    )


class DynamicWeightAverage(Combiner):
    """Combine by Σ_t weight_t · loss_t, where weight_t = T·softmax_t(rate_t / temperature) over the stage's T tasks.

    rate_t is the mean loss of the last epoch divided by that of the epoch before; 1 until there are two.

    An epoch in which a task had no step does not count for that task. torchjd's `DWA` is not used because it needs all
    tasks in every step and does not save its history.

    Source: Liu et al. 2019 (multi-task attention network), arXiv:1803.10704, equation 7.
    """

    sums: Tensor
    """`[tasks]` of this epoch's losses, over `counts` steps."""
    counts: Tensor
    last: Tensor
    """`[tasks]` the mean losses of the last epoch and, in `before`, of the one before; 0 where there was none."""
    before: Tensor

    def __init__(self, tasks: tuple[str, ...], *, temperature: float) -> None:
        super().__init__(tasks)
        self.temperature = temperature
        for name in ("sums", "counts", "last", "before"):
            self.register_buffer(name, torch.zeros(len(tasks)))

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        rates = torch.where(self.before == 0, 1.0, self.last / self.before)
        # From a loss that was almost 0 a rate may be infinite, and then there is no softmax.
        logits = (rates / self.temperature).clamp(max=torch.finfo(rates.dtype).max)
        weights = len(self.tasks) * torch.softmax(logits, dim=0)
        return (weights[present] * losses).sum()

    @torch.no_grad()
    def step_finished(self, losses: Tensor, present: Tensor) -> None:
        self.sums[present] += losses
        self.counts[present] += 1

    @torch.no_grad()
    def epoch_finished(self) -> None:
        seen = self.counts > 0
        self.before.copy_(torch.where(seen, self.last, self.before))
        self.last.copy_(torch.where(seen, self.sums / self.counts, self.last))
        self.sums.zero_()
        self.counts.zero_()


def build(options: Options, *, tasks: Sequence[str]) -> DynamicWeightAverage:
    return DynamicWeightAverage(tuple(tasks), temperature=options.temperature)
