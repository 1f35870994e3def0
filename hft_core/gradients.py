"""From the batches of one step to the gradient of every parameter: where the combiner meets the model.

Each task's loss is its sum over the whole step divided by the count of its targets in the whole step, however the step
is divided into batches; so accumulation changes memory, not the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from hft_core.batching import Batch
from hft_core.combiner import Combiner, weights_of
from hft_core.machine import Machine
from hft_core.model import HybridModel


@dataclass(frozen=True)
class Combined:
    """What a step's losses were, and what the combiner made of them."""

    tasks: tuple[str, ...]
    """The tasks present, in the combiner's order."""
    losses: Tensor
    """`[t]` their mean losses."""
    weights: Tensor
    """`[t]` the weight given to each."""


def fill(
    model: HybridModel, combiner: Combiner, batches: Sequence[Batch], machine: Machine, draw_seed: int
) -> Combined:
    """Leave in `.grad` of every trained parameter the combined gradient of the step's losses.

    `draw_seed` seeds what the combiner draws at random, the same on every process.
    """
    counts: dict[str, int] = {}
    for batch in batches:
        for segment in batch.segments:
            counts[segment.task] = counts.get(segment.task, 0) + segment.targets.count
    step = _Step(model, combiner, {task: n for task, n in counts.items() if n}, machine)
    if not step.tasks:  # nothing in these rows is to be learned
        return Combined((), step.losses, step.losses)
    if combiner.per_task_gradients:
        return step.by_gradients(batches, draw_seed)
    return step.by_losses(batches)


class _Step:
    def __init__(self, model: HybridModel, combiner: Combiner, counts: dict[str, int], machine: Machine) -> None:
        self.model, self.combiner, self.counts, self.machine = model, combiner, counts, machine
        self.tasks = tuple(task for task in combiner.tasks if task in counts)
        device = machine.device
        self.present = torch.tensor([combiner.tasks.index(task) for task in self.tasks], device=device)
        self.losses = torch.zeros(len(self.tasks), device=device)

    def means(self, batch: Batch) -> Tensor:
        """`[t]`: what the batch adds to each task's mean loss over the step."""
        with self.machine.autocast():
            sums = self.model(batch)
        zero = self.losses.new_zeros(())
        return torch.stack([sums[task] / self.counts[task] if task in sums else zero for task in self.tasks])

    def by_losses(self, batches: Sequence[Batch]) -> Combined:
        """One backward pass a batch, of the losses times their weights."""
        weights = None
        if self.combiner.linear:
            weights = weights_of(self.combiner, torch.ones_like(self.losses), self.present)
        elif len(batches) > 1:
            weights = weights_of(self.combiner, self._losses_ahead(batches), self.present)
        for batch in batches:
            means = self.means(batch)
            if weights is None:
                weights = weights_of(self.combiner, means, self.present)
            if means.requires_grad:
                self.machine.accelerator.backward((weights * means).sum())
            self.losses += means.detach()
        assert weights is not None
        self._fill_combiner()
        return Combined(self.tasks, self.losses, weights.detach())

    def _losses_ahead(self, batches: Sequence[Batch]) -> Tensor:
        """The step's losses, computed before its backward passes with the same dropout: a combiner that is not linear
        in the losses needs those of the whole step to weigh any of them."""
        with self._random_state_kept(), torch.no_grad():
            return torch.stack([self.means(batch) for batch in batches]).sum(dim=0)

    def _random_state_kept(self) -> AbstractContextManager[None]:
        """Afterwards, dropout goes on as if nothing had been drawn inside."""
        device = self.machine.device
        return torch.random.fork_rng([device] if device.type == "cuda" else [])

    def _fill_combiner(self) -> None:
        learned = [parameter for parameter in self.combiner.parameters() if parameter.requires_grad]
        if learned:
            gradients = torch.autograd.grad(self.combiner(self.losses, self.present), learned, allow_unused=True)
            for parameter, gradient in zip(learned, gradients, strict=True):
                parameter.grad = gradient

    def by_gradients(self, batches: Sequence[Batch], draw_seed: int) -> Combined:
        """One backward pass a batch, each of one task's rows; the shared parameters' gradients are kept apart by task
        and aggregated, the others are each task's own."""
        shared = self.model.trunk_parameters()
        own = self.model.head_parameters(self.tasks)
        sizes = [parameter.numel() for parameter in shared]
        rows = torch.zeros(len(self.tasks), sum(sizes), device=self.machine.device)
        for batch in batches:
            (task,) = {segment.task for segment in batch.segments}
            if task not in self.counts:
                continue
            index = self.tasks.index(task)
            loss = self.means(batch)[index]
            self.losses[index] += loss.detach()
            if not loss.requires_grad:  # nothing that the task goes through trains
                continue
            gradients = torch.autograd.grad(loss, [*shared, *own], allow_unused=True)
            for place, gradient in zip(torch.split(rows[index], sizes), gradients, strict=False):
                if gradient is not None:
                    place += gradient.reshape(-1)
            for parameter, gradient in zip(own, gradients[len(shared) :], strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        weights = torch.ones(len(self.tasks), device=self.machine.device)
        if shared:
            with self._random_state_kept():
                torch.manual_seed(draw_seed)
                combined, weights = self.combiner.aggregate(rows, self.present)
            for parameter, gradient in zip(shared, torch.split(combined, sizes), strict=True):
                parameter.grad = gradient.view_as(parameter)
        return Combined(self.tasks, self.losses, weights.detach())
