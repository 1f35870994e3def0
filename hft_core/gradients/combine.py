"""From the batches of one step to the gradient of every parameter: where the combiner meets the model.

Each task's loss is its sum over the whole step divided by the count of its targets in the whole step, however the step
is divided into batches; so accumulation changes memory, not the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hft_core.batching.batch import Batch
from hft_core.combiner import Combiner, weights_of
from hft_core.device.distributed import Machine
from hft_core.gradients.hidden import Comparison, HiddenGradient, added_up, same_rows, with_products
from hft_core.gradients.jacobian import Jacobian, cast_once, of_tokens_alone
from hft_core.gradients.losses import Forward
from hft_core.gradients.one_pass import Casts, collect_task_gradients
from hft_core.model.execution_plan import PLAIN, ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.runtime.random_state import random_state_kept


@dataclass(frozen=True)
class Combined:
    """What a step's losses were, and what the combiner made of them."""

    tasks: tuple[str, ...]
    """The tasks present, in the combiner's order."""
    losses: Tensor
    """`[t]` their mean losses."""
    weights: Tensor
    """`[t]` the weight given to each; where the combiner's factors differ within a gradient, its share along itself."""


def fill(
    model: HybridModel,
    combiner: Combiner,
    batches: Sequence[Batch],
    machine: Machine,
    draw_seed: int,
    plan: ExecutionPlan = PLAIN,
) -> Combined:
    """Leave in `.grad` of every trained parameter the combined gradient of the step's losses.

    `draw_seed` seeds what the combiner draws at random, the same on every process.
    """
    step = _Step(model, combiner, batches, machine, draw_seed, plan)
    if not step.tasks:  # nothing in these rows is to be learned
        return Combined((), step.losses, step.losses)
    if not combiner.per_task_gradients:
        return step.by_losses()
    return step.at_representation() if combiner.at == "representation" else step.by_gradients()


def losses_again(
    model: HybridModel,
    combiner: Combiner,
    batches: Sequence[Batch],
    machine: Machine,
    plan: ExecutionPlan = PLAIN,
) -> Tensor:
    """`[t]`: the mean losses of the same step with the weights as they are now."""
    return _Step(model, combiner, batches, machine, 0, plan).losses_ahead()


class _Step:
    def __init__(
        self,
        model: HybridModel,
        combiner: Combiner,
        batches: Sequence[Batch],
        machine: Machine,
        draw_seed: int,
        plan: ExecutionPlan,
    ) -> None:
        self.model, self.combiner, self.batches, self.machine = model, combiner, batches, machine
        self.draw_seed, self.plan = draw_seed, plan
        self.forward = Forward(model, batches, machine, plan)
        self.counts = {task: n for task, n in self.forward.counts.items() if n}
        self.tasks = tuple(task for task in combiner.tasks if task in self.counts)
        device = machine.device
        self.present = torch.tensor([combiner.tasks.index(task) for task in self.tasks], device=device)
        self.losses = torch.zeros(len(self.tasks), device=device)

    def means(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """`[t]`: what the batch adds to each task's mean loss over the step; from `hidden` where that is known."""
        return self._in_order(self.forward.sums(batch, hidden))

    def _in_order(self, sums: dict[str, Tensor]) -> Tensor:
        zero = self.losses.new_zeros(())
        return torch.stack([sums[task] / self.counts[task] if task in sums else zero for task in self.tasks])

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Inside, random numbers are the combiner's; afterwards, dropout goes on as if none had been drawn."""
        with random_state_kept(self.machine.device):
            torch.manual_seed(self.draw_seed)
            yield

    # --- combiners of losses

    def by_losses(self) -> Combined:
        """One backward pass a batch, of the losses times their weights."""
        weights = None
        if self.combiner.linear:
            weights = self._weights_at(torch.ones_like(self.losses))
        elif len(self.batches) > 1 or self.machine.group.world_size > 1:
            weights = self._weights_at(self.losses_ahead())
        for batch in self.batches:
            hidden = self.forward.hidden(batch)
            means = self.means(batch, hidden)
            if weights is None:
                weights = self._weights_at(means)
            self._backward((weights * means).sum(), hidden)
            self.losses += means.detach()
        assert weights is not None
        self.machine.group.all_reduce(self.losses)
        self.machine.group.sum_gradients([*self.model.trunk_parameters(), *self.model.head_parameters(self.tasks)])
        self._fill_combiner()
        return Combined(self.tasks, self.losses, weights.detach())

    def _backward(self, loss: Tensor, hidden: Tensor) -> None:
        """The backward pass of a batch; where the trunk is divided, in any case one through the trunk, since all
        processes make as many."""
        roots, seeds = ([loss], [torch.ones_like(loss)]) if loss.requires_grad else ([], [])
        if self.machine.sharded and hidden.requires_grad:
            roots, seeds = [*roots, hidden], [*seeds, torch.zeros_like(hidden)]
        if roots:
            torch.autograd.backward(roots, seeds)

    def _weights_at(self, losses: Tensor) -> Tensor:
        with self._drawing():
            return self.machine.group.broadcast(weights_of(self.combiner, losses, self.present))

    def losses_ahead(self) -> Tensor:
        """The step's losses, computed before its backward passes with the same dropout: a combiner that is not linear
        in the losses needs those of the whole step to weigh any of them."""
        return self.machine.group.all_reduce(self._in_order(self.forward.ahead.sums).detach())

    def _fill_combiner(self) -> None:
        learned = [parameter for parameter in self.combiner.parameters() if parameter.requires_grad]
        if learned:
            with self._drawing():
                total = self.combiner(self.losses, self.present)
            gradients = torch.autograd.grad(total, learned, allow_unused=True)
            for parameter, gradient in zip(learned, gradients, strict=True):
                parameter.grad = None if gradient is None else self.machine.group.broadcast(gradient)

    # --- combiners of gradients

    def by_gradients(self) -> Combined:
        """One backward pass a batch; the shared parameters' gradients are kept apart by task and combined, the others
        are each task's own. A batch has the rows of one task where the trunk cannot tell the rows of several apart."""
        shared = Jacobian(self.model.shared_parameters(), len(self.tasks))
        own: list[_Own] = [_Own(self.model.task_parameters(task)) for task in self.tasks]
        if self.plan.one_pass:
            self._add_gradients_of_all(shared, own)
        else:
            with cast_once(self.machine.device), of_tokens_alone(self.model.trunk, self.machine.group):
                for batch in self.batches:
                    self._add_gradients(batch, shared, own)
        factors, weights = self._factors_of(shared)
        shared.fill(factors)
        self._fill_own(own, weights)
        self.machine.group.sum_gradients(_each_once(own))
        return Combined(self.tasks, self.machine.group.all_reduce(self.losses), weights)

    def _add_gradients(self, batch: Batch, shared: Jacobian, own: Sequence[_Own]) -> None:
        """Those of a batch, whose rows are of one task."""
        (task,) = {segment.task for segment in batch.segments}
        if task not in self.counts:
            return
        index = self.tasks.index(task)
        loss = self.means(batch)[index]
        self.losses[index] += loss.detach()
        if not loss.requires_grad:  # nothing that the task goes through trains
            return
        gradients = torch.autograd.grad(loss, [*shared.parameters, *own[index].parameters], allow_unused=True)
        shared.add(index, gradients[: len(shared.parameters)])
        own[index].add(gradients[len(shared.parameters) :])

    def _add_gradients_of_all(self, shared: Jacobian, own: Sequence[_Own]) -> None:
        """Those of all batches, whose rows are of any task."""
        ones = torch.ones_like(self.losses)
        casts: Casts = {}
        tied = [_Own(self._tied(task)) for task in self.tasks]
        for batch in self.batches:
            rows = [(self.tasks.index(s.task), s.rows) for s in batch.segments if s.task in self.counts]
            with collect_task_gradients(self.model.trunk, shared, rows, batch.rows, casts):
                hidden = self.forward.hidden(batch)
            found = self._at_hidden(batch, hidden, own, tied)
            if hidden.requires_grad:
                torch.autograd.backward(hidden, added_up(hidden, found, ones))
        for index, parts in enumerate(tied):
            for parameter, gradient in zip(parts.parameters, parts.gradients, strict=True):
                if gradient is not None:
                    shared.add_one(parameter, index, gradient)

    def _factors_of(self, shared: Jacobian) -> tuple[Tensor, Tensor]:
        """The combiner's factors, and the weights that they are: all 1 where nothing is shared."""
        if not shared.parameters:
            weights = torch.ones_like(self.losses)
            return weights, weights
        shared.all_reduce(self.machine.group)
        rows = with_products(shared.products()) if self.combiner.by_products else shared.rows()
        factors = self._factors(rows)
        return factors, _along_itself(factors, rows)

    def at_representation(self) -> Combined:
        """One backward pass a batch, of the hidden states' gradients times each task's factor.

        The factors need the gradients of the whole step: those of a step that is divided are computed ahead.
        """
        own = [_Own(self.model.task_parameters(task)) for task in self.tasks]
        tied = [_Own(self._tied(task)) for task in self.tasks]
        differ = not (self.combiner.by_products and same_rows(self.batches, self.tasks))
        exact = not self.machine.group.any(differ)
        compared = Comparison(len(self.tasks), self.model.backbone.hidden_size, self.machine, exact=exact)
        divided = self.machine.group.all_reduce_max(len(self.batches)) > 1
        seen = [] if divided else [self._both(batch, own, tied) for batch in self.batches]
        for hidden, found in seen:
            compared.add(hidden, found)
        if divided:
            self._compare_ahead(compared)
        gradients = compared.gradients()
        factors = self._factors(gradients)
        if divided:
            self.losses.zero_()
        for hidden, found in (self._both(batch, own, tied) for batch in self.batches) if divided else seen:
            if hidden.requires_grad:
                torch.autograd.backward(hidden, added_up(hidden, found, factors))
        weights = _along_itself(factors, gradients)
        for index, parts in enumerate(tied):
            parts.into_grad(weights[index])
        self._fill_own(own, weights)
        self.machine.group.sum_gradients([*self.model.trunk_parameters(), *self.model.head_parameters(self.tasks)])
        return Combined(self.tasks, self.machine.group.all_reduce(self.losses), weights)

    def _compare_ahead(self, compared: Comparison) -> None:
        """Fill in `compared` from gradients that are computed ahead, with the dropout of the passes to come."""
        with random_state_kept(self.machine.device):
            for batch in self.batches:
                with torch.no_grad():
                    hidden = self.forward.hidden(batch)
                compared.add(hidden, self._at_hidden(batch, hidden))

    def _both(self, batch: Batch, own: Sequence[_Own], tied: Sequence[_Own]) -> tuple[Tensor, list[HiddenGradient]]:
        """The hidden states of a batch, and the gradients of the losses with respect to them."""
        hidden = self.forward.hidden(batch)
        return hidden, self._at_hidden(batch, hidden, own, tied)

    def _at_hidden(
        self, batch: Batch, hidden: Tensor, own: Sequence[_Own] = (), tied: Sequence[_Own] = ()
    ) -> list[HiddenGradient]:
        """The gradients of the tasks' mean losses with respect to the hidden states of their rows; those of what the
        heads train are added to `own` and, where they share it with the trunk, to `tied`."""
        seen = [
            (segment, replace(features, hidden=features.hidden.detach().requires_grad_()))
            for segment, features in self.model.segments(batch, hidden)
        ]
        sums = self.forward.sums_of(seen)
        found = []
        for index, task in enumerate(self.tasks):
            if task not in sums:
                continue
            mean = sums[task] / self.counts[task]
            self.losses[index] += mean.detach()
            leaves = [(segment.rows, features.hidden) for segment, features in seen if segment.task == task]
            parameters = [*own[index].parameters, *tied[index].parameters] if own else []
            gradients = torch.autograd.grad(mean, [*(leaf for _, leaf in leaves), *parameters], allow_unused=True)
            for (rows, _), gradient in zip(leaves, gradients, strict=False):
                if gradient is not None:
                    found.append(HiddenGradient(index, rows, gradient))
            if own:
                others = gradients[len(leaves) :]
                own[index].add(others[: len(own[index].parameters)])
                tied[index].add(others[len(own[index].parameters) :])
        return found

    def _tied(self, task: str) -> list[nn.Parameter]:
        """What a task's head shares with the trunk and trains (an LM head tied to the embeddings)."""
        trunk = {id(parameter) for parameter in self.model.trunk_parameters()}
        return [parameter for parameter in self.model.heads[task].parameters() if id(parameter) in trunk]

    def _factors(self, gradients: Tensor) -> Tensor:
        with self._drawing(), torch.no_grad():
            losses = self.machine.group.all_reduce(self.losses.clone())
            return self.machine.group.broadcast(self.combiner.weigh(gradients, losses, self.present).contiguous())

    def _fill_own(self, own: Sequence[_Own], weights: Tensor) -> None:
        for index, parts in enumerate(own):
            parts.into_grad(weights[index] if self.combiner.weighs_heads else None)


def _each_once(own: Sequence[_Own]) -> list[nn.Parameter]:
    return list({id(p): p for parts in own for p in parts.parameters}.values())


class _Own:
    """The gradient of what one task trains, until its weight is known."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.gradients: list[Tensor | None] = [None] * len(self.parameters)

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        for i, gradient in enumerate(gradients):
            held = self.gradients[i]
            self.gradients[i] = gradient if held is None else held if gradient is None else held + gradient

    def into_grad(self, weight: Tensor | None) -> None:
        """Add the gradients, times the weight if there is one, to those that the parameters have."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            if gradient is not None:
                gradient = gradient if weight is None else gradient * weight
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _along_itself(factors: Tensor, gradients: Tensor) -> Tensor:
    """`[t]`: the factors, or, where they are `[t, p]`, how much of each gradient they leave along itself."""
    if factors.ndim == 1:
        return factors
    squared = gradients.square()
    return (factors * squared).sum(dim=1) / squared.sum(dim=1).clamp_min(torch.finfo(gradients.dtype).tiny)
