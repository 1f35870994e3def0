"""`coba`: weights that let the dev losses of all tasks converge at the same time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from hft_core import options
from hft_core.combiner import Combiner


class Options(options.Options):
    """How often the dev losses are measured, and how the weights follow them."""

    dev_every: int = Field(default=5, ge=1, description="steps from one measurement of the dev losses to the next")
    warmup: int = Field(default=10, ge=1, description="measurements before the weights begin to differ")
    history_length: int = Field(
        default=50, ge=2, description="latest measurements that the slopes are fitted to and compared with"
    )
    tau: float = Field(
        default=5.0, gt=0, allow_inf_nan=False, description="how fast a slowing convergence turns to guarding each task"
    )


class ConvergenceBalancer(Combiner):
    """Combine by Σ_t weight_t · loss_t with weights that sum to 1, from the slopes of the tasks' dev losses.

    A task's slope a is that of the least-squares line through its latest dev losses, each over the first one. With K
    tasks, and n slopes of each so far,

        RCS_t = softmax_t(K·a_t(n) / Σ_t |a_t(n)|): the relative convergence score gives slow tasks more;
        ACS_t = softmax_t(−n·a_t(n) / Σ_i |a_t(i)|): the absolute one gives a task that diverges less;
        DF = min(1, n·softmax_i(−tau·n·m(i) / Σ_i |m(i)|) at i = n), where m = max_t a_t: the divergence factor;
        weight_t = DF·RCS_t + (1 − DF)·ACS_t.

    The slopes compared are those of the latest `history_length` measurements. A task without dev rows keeps 1/K.

    Source: Gong et al. 2024, arXiv:2410.06741; the absolute values in DF, and that slopes count from the end of the
    warm-up, as in MFTCoder.
    """

    first: Tensor
    """`[tasks]` the dev losses measured first; infinite for a task without."""
    ratios: Tensor
    """`[history_length, tasks]` the latest dev losses over the first ones, the newest last; infinite
    where there is none."""
    slopes: Tensor
    """`[history_length, tasks]` their slopes; infinite where there is none."""
    measured: Tensor
    """`[]` how many measurements there were."""
    weights: Tensor

    def __init__(self, tasks: tuple[str, ...], *, dev_every: int, warmup: int, history_length: int, tau: float) -> None:
        super().__init__(tasks)
        self.dev_every, self.warmup, self.tau = dev_every, warmup, tau
        self.register_buffer("first", torch.full((len(tasks),), torch.inf))
        self.register_buffer("ratios", torch.full((history_length, len(tasks)), torch.inf))
        self.register_buffer("slopes", torch.full((history_length, len(tasks)), torch.inf))
        self.register_buffer("measured", torch.zeros((), dtype=torch.long))
        self.register_buffer("weights", torch.full((len(tasks),), 1 / len(tasks)))

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return (self.weights[present] * losses).sum()

    @torch.no_grad()
    def dev_measured(self, losses: Tensor) -> None:
        usable = torch.isfinite(losses) & (losses > 0)
        self.first.copy_(torch.where(usable & torch.isinf(self.first), losses, self.first))
        _append(self.ratios, torch.where(usable, losses / self.first, torch.inf))
        self.measured += 1
        if int(self.measured) <= self.warmup:
            return
        _append(self.slopes, _slopes(self.ratios))
        known = torch.isfinite(self.slopes[-1])
        if bool(known.any()):
            self.weights[known] = self._weights(self.slopes[:, known]) * (known.sum() / len(self.tasks))

    def _weights(self, slopes: Tensor) -> Tensor:
        """`[k]` weights that sum to 1, from the slopes `[history_length, k]` of tasks that all have the newest."""
        newest, there = slopes[-1], torch.isfinite(slopes)
        relative = torch.softmax(len(newest) * _share(newest, newest.abs().sum()), dim=0)
        sizes = torch.where(there, slopes.abs(), 0.0).sum(dim=0)
        absolute = torch.softmax(-there.sum(dim=0) * _share(newest, sizes), dim=0)
        steepest = torch.where(there, slopes, -torch.inf).amax(dim=1)[there.any(dim=1)]
        count = len(steepest)
        among = torch.softmax(-self.tau * count * _share(steepest, steepest.abs().sum()), dim=0)
        factor = (count * among[-1]).clamp(max=1)
        return factor * relative + (1 - factor) * absolute


def _append(window: Tensor, row: Tensor) -> None:
    """Put `row` `[tasks]` at the end of `window` `[n, tasks]`, in place of its oldest row."""
    window.copy_(torch.cat([window[1:], row.unsqueeze(0)]))


def _slopes(window: Tensor) -> Tensor:
    """`[tasks]` the slopes of the least-squares lines through the columns of `window` `[n, tasks]`, its rows one unit
    apart; infinite for a column that has no newest value or fewer than two values."""
    there = torch.isfinite(window)
    count = there.sum(dim=0)
    x = torch.arange(len(window), device=window.device, dtype=window.dtype).unsqueeze(1)
    x = torch.where(there, x - (there * x).sum(dim=0) / count, 0.0)
    slopes = (x * torch.where(there, window, 0.0)).sum(dim=0) / (x**2).sum(dim=0)
    return torch.where(there[-1] & (count >= 2), slopes, torch.inf)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """`part / whole`; 0 where both are 0."""
    return part / whole.clamp(min=torch.finfo(whole.dtype).tiny)


def build(options: Options, *, tasks: Sequence[str]) -> ConvergenceBalancer:
    return ConvergenceBalancer(
        tuple(tasks),
        dev_every=options.dev_every,
        warmup=options.warmup,
        history_length=options.history_length,
        tau=options.tau,
    )
