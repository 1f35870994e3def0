"""Compute the mean losses of a step's tasks, and draw the combiner's random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from hft_core.batching.batch import Batch
from hft_core.combiner import Combiner
from hft_core.device.machine import Machine
from hft_core.gradients.losses import Forward
from hft_core.model.execution_plan import PLAIN, ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.runtime.random_state import random_state_kept


@dataclass(frozen=True)
class Combined:
    """The losses of a step, and the weights that the combiner gave them."""

    tasks: tuple[str, ...]
    """The tasks present, in the combiner's order."""
    losses: Tensor
    """`[t]`: their mean losses."""
    weights: Tensor
    """`[t]`: the weight of each; where the combiner's factors differ within a gradient, the projection of the scaled
    gradient on the gradient itself."""


class StepLosses:
    """The mean losses of the tasks that are present in a step."""

    def __init__(
        self,
        model: HybridModel,
        combiner: Combiner,
        batches: Sequence[Batch],
        machine: Machine,
        draw_seed: int,
        plan: ExecutionPlan = PLAIN,
    ) -> None:
        self.model, self.combiner, self.machine, self.draw_seed = model, combiner, machine, draw_seed
        self.forward = Forward(model, batches, machine, plan)
        self.counts = {task: n for task, n in self.forward.counts.items() if n}
        """Targets of each present task in the whole step."""
        self.tasks = tuple(task for task in combiner.tasks if task in self.counts)
        indices = [combiner.tasks.index(task) for task in self.tasks]
        self.present = torch.tensor(indices, device=machine.device)
        """`[t]`: their indices in `combiner.tasks`."""
        self.total = torch.zeros(len(self.tasks), device=machine.device)
        """`[t]`: the losses of the batches so far, in this process."""

    def of_batch(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """Return the batch's part of each task's mean loss over the step, `[t]`; from `hidden` where it is given."""
        return self._in_order(self.forward.sums(batch, hidden))

    def no_grad_pass(self) -> Tensor:
        """Return the mean losses of the whole step, `[t]`, from a pass without gradients but with the same dropout."""
        return self.machine.group.all_reduce(self._in_order(self.forward.no_grad_pass.sums).detach())

    @contextmanager
    def combiner_draws(self) -> Iterator[None]:
        """Inside, seed the random numbers for the combiner; afterwards, restore the random state, for dropout."""
        with random_state_kept(self.machine.device):
            torch.manual_seed(self.draw_seed)
            yield

    def factors(self, gradients: Tensor) -> Tensor:
        """Ask the combiner for the factors on the tasks' gradients `[t, p]`: `[t]` or `[t, p]`, the same in all
        processes."""
        with self.combiner_draws(), torch.no_grad():
            losses = self.machine.group.all_reduce(self.total.clone())
            factors = self.combiner.weigh(gradients, losses, self.present).contiguous()
            return self.machine.group.broadcast(factors)

    def combined(self, weights: Tensor) -> Combined:
        """Return the result of the step, after its last batch."""
        return Combined(self.tasks, self.machine.group.all_reduce(self.total), weights)

    def _in_order(self, sums: dict[str, Tensor]) -> Tensor:
        zero = self.total.new_zeros(())
        return torch.stack([sums[task] / self.counts[task] if task in sums else zero for task in self.tasks])


def projected_weights(factors: Tensor, gradients: Tensor) -> Tensor:
    """Return the weight of each task, `[t]`: its factor, or, where factors are `[t, p]`, the projection of the scaled
    gradient on the gradient itself."""
    if factors.ndim == 1:
        return factors
    squared = gradients.square()
    return (factors * squared).sum(dim=1) / squared.sum(dim=1).clamp_min(torch.finfo(gradients.dtype).tiny)
