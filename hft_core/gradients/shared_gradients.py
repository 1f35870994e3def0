"""Fill gradients by combining the tasks' gradients of the shared parameters (e.g. PCGrad, Yu et al. 2020,
arXiv:2001.06782)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hft_core.batching.batch import Batch
from hft_core.gradients.gradient_comparison import vectors_with_gramian, weighted_sum
from hft_core.gradients.hidden_gradients import HeadGradients, hidden_gradients
from hft_core.gradients.jacobian import Jacobian, cast_once, of_tokens_alone
from hft_core.gradients.one_pass import Casts, collect_task_gradients
from hft_core.gradients.step_losses import Combined, StepLosses, projected_weights
from hft_core.gradients.task_gradients import TaskGradients, unique_parameters


@dataclass(frozen=True)
class SharedGradients:
    """Keeps the gradients of the shared parameters apart by task, combines them, and adds the tasks' own gradients.

    Makes one backward pass per batch, which has rows of one task, or of all tasks with `one_pass`.
    """

    losses: StepLosses
    one_pass: bool
    """Batches have rows of all tasks, whose gradients are separated (see `hft_core.gradients.one_pass`)."""

    def fill(self, batches: Sequence[Batch]) -> Combined:
        """Fill `.grad` of all trained parameters of the model."""
        losses, model, machine = self.losses, self.losses.model, self.losses.machine
        jacobian = Jacobian(model.shared_parameters(), len(losses.tasks))
        heads = HeadGradients.of(losses)
        if self.one_pass:
            self._add_all_tasks(batches, jacobian, heads)
        else:
            with cast_once(machine.device), of_tokens_alone(model.trunk, machine.group):
                for batch in batches:
                    self._add_one_task(batch, jacobian, heads.own)
        factors, weights = self._factors(jacobian)
        jacobian.fill(factors)
        heads.add_own_to_grad(weights, weighted=losses.combiner.weighs_heads)
        machine.group.sum_gradients(unique_parameters(heads.own))
        return losses.combined(weights)

    def _add_one_task(self, batch: Batch, jacobian: Jacobian, own: Sequence[TaskGradients]) -> None:
        """Add the gradients of a batch whose rows are of one task."""
        losses = self.losses
        (task,) = {segment.task for segment in batch.segments}
        if task not in losses.counts:
            return
        index = losses.tasks.index(task)
        loss = losses.of_batch(batch)[index]
        losses.total[index] += loss.detach()
        if not loss.requires_grad:  # nothing that the task depends on is trained
            return
        parameters = [*jacobian.parameters, *own[index].parameters]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        jacobian.add(index, gradients[: len(jacobian.parameters)])
        own[index].add(gradients[len(jacobian.parameters) :])

    def _add_all_tasks(self, batches: Sequence[Batch], jacobian: Jacobian, heads: HeadGradients) -> None:
        """Add the gradients of batches whose rows are of any tasks."""
        losses = self.losses
        ones = torch.ones_like(losses.total)
        casts: Casts = {}
        for batch in batches:
            rows = [(losses.tasks.index(s.task), s.rows) for s in batch.segments if s.task in losses.counts]
            with collect_task_gradients(losses.model.trunk, jacobian, rows, batch.rows, casts):
                hidden = losses.forward.hidden(batch)
            gradients = hidden_gradients(losses, batch, hidden, heads)
            if hidden.requires_grad:
                torch.autograd.backward(hidden, weighted_sum(hidden, gradients, ones))
        for index, tied in enumerate(heads.tied):
            for parameter, gradient in zip(tied.parameters, tied.gradients, strict=True):
                if gradient is not None:
                    jacobian.add_one(parameter, index, gradient)

    def _factors(self, jacobian: Jacobian) -> tuple[Tensor, Tensor]:
        """Return the combiner's factors and the tasks' weights, all 1 where nothing is shared."""
        losses = self.losses
        if not jacobian.parameters:
            weights = torch.ones_like(losses.total)
            return weights, weights
        jacobian.all_reduce(losses.machine.group)
        gradients = vectors_with_gramian(jacobian.products()) if losses.combiner.by_products else jacobian.rows()
        factors = losses.factors(gradients)
        return factors, projected_weights(factors, gradients)
