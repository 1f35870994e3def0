"""Hold the gradients of a step's tasks with respect to their shared parameters: one row per task, in pieces.

A combiner that uses the Gramian only gets it summed parameter by parameter, without a matrix of all gradients.
Gradients of embeddings are sparse: they hold the tokens of the step only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hft_core.device.process_group import ProcessGroup

PIECE = 1 << 20
"""Values of all tasks' gradients that are multiplied at once: 4 MiB, which fits into a processor's cache."""


class Jacobian:
    """A matrix `[t, p]` of `t` tasks and the `p` values of the shared parameters."""

    def __init__(self, parameters: Sequence[nn.Parameter], tasks: int) -> None:
        self.parameters = list(parameters)
        self._gradients: list[list[Tensor | None]] = [[None] * tasks for _ in self.parameters]
        """By parameter and task; None where a task has none (yet)."""
        self._places = {id(parameter): place for place, parameter in enumerate(self.parameters)}

    def has(self, parameter: nn.Parameter) -> bool:
        """Tell whether a parameter is one of the shared ones."""
        return id(parameter) in self._places

    def add(self, task: int, gradients: Sequence[Tensor | None]) -> None:
        """Add a task's gradients of the parameters."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                self.add_one(parameter, task, gradient)

    def add_one(self, parameter: nn.Parameter, task: int, gradient: Tensor) -> None:
        """Add a task's gradient of one parameter, which may be sparse. The first one is kept without a copy, in the
        dtype that it was computed in."""
        by_task = self._gradients[self._places[id(parameter)]]
        before, total = by_task[task], gradient
        if before is not None:
            first, second = (gradient, before) if before.is_sparse else (before, gradient)  # torch adds in this order
            total = first.to(parameter.dtype) + second.to(parameter.dtype)
        by_task[task] = total.coalesce() if total.is_sparse else total

    def of(self, task: int) -> list[Tensor | None]:
        """Return the gradients of one task, by parameter."""
        of_task = [by_task[task] for by_task in self._gradients]
        return [None if gradient is None else _dense(gradient) for gradient in of_task]

    def all_reduce(self, group: ProcessGroup) -> None:
        """Sum the rows over all processes."""
        if group.world_size > 1:  # else the matrix need not be built
            rows = group.all_reduce(self.rows())
            self._gradients = [
                [row.view_as(parameter) for row in piece]
                for parameter, piece in zip(self.parameters, self._pieces(rows), strict=True)
            ]

    def rows(self) -> Tensor:
        """Return the whole matrix `[t, p]`."""
        columns = [_stacked(p, by_task).flatten(1) for p, by_task in zip(self.parameters, self._gradients, strict=True)]
        return torch.cat(columns, dim=1)

    def products(self) -> Tensor:
        """Compute the Gramian `[t, t]`: the products of the rows with one another."""
        tasks = len(self._gradients[0])
        total = torch.zeros(tasks, tasks, device=self.parameters[0].device)
        for by_task in self._gradients:
            present = [task for task, gradient in enumerate(by_task) if gradient is not None]
            if present:
                place = torch.tensor(present, device=total.device)
                total[place[:, None], place] += _products(_of_tokens([g for g in by_task if g is not None]))
        return total

    def fill(self, factors: Tensor) -> None:
        """Set `.grad` of each parameter to the sum of the tasks' gradients, each times its factor: `[t]`, or `[t, p]`
        for one per value."""
        if factors.ndim == 2:
            combined = (factors * self.rows()).sum(dim=0)
            for parameter, part in zip(self.parameters, self._pieces(combined), strict=True):
                parameter.grad = part.view_as(parameter)
            return
        for parameter, by_task in zip(self.parameters, self._gradients, strict=True):
            total: Tensor | None = None
            for gradient, factor in zip(by_task, factors.tolist(), strict=True):
                if gradient is None:
                    continue
                if total is None and not gradient.is_sparse:
                    total = gradient.to(parameter.dtype, copy=True).mul_(factor)
                else:
                    total = (torch.zeros_like(parameter) if total is None else total).add_(gradient, alpha=factor)
            parameter.grad = torch.zeros_like(parameter) if total is None else total

    def _pieces(self, values: Tensor) -> tuple[Tensor, ...]:
        """Split `[…, p]` by parameter."""
        return torch.split(values, [parameter.numel() for parameter in self.parameters], dim=-1)


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


def _stacked(parameter: nn.Parameter, by_task: Sequence[Tensor | None]) -> Tensor:
    """`[t, *parameter]`"""
    zero = torch.zeros_like(parameter)
    return torch.stack([zero if gradient is None else _dense(gradient).to(zero.dtype) for gradient in by_task])


def _products(gradients: Sequence[Tensor]) -> Tensor:
    """Compute the Gramian `[n, n]` of gradients in pieces that stay in the cache."""
    flat = [each.reshape(-1) for each in gradients]
    size, step = len(flat[0]), PIECE // len(flat)
    rows = torch.empty(len(flat), min(step, size), device=flat[0].device)
    total = torch.zeros(len(flat), len(flat), device=rows.device)
    for start in range(0, size, step):
        piece = rows[:, : size - start]
        for row, values in zip(piece, flat, strict=True):
            row.copy_(values[start : start + step])
        total.addmm_(piece, piece.T)
    return total


def _of_tokens(gradients: Sequence[Tensor]) -> Sequence[Tensor]:
    """Restrict sparse gradients of an embedding to the tokens that any of them has, each `[tokens, d]`."""
    if not all(each.is_sparse for each in gradients):
        return [_dense(each) for each in gradients]
    tokens, places = torch.unique(torch.cat([each.indices()[0] for each in gradients]), return_inverse=True)
    ends = torch.split(places, [each.indices().shape[1] for each in gradients])
    shape = (len(tokens), *gradients[0].shape[1:])
    return [
        each.values().new_zeros(shape).index_copy(0, place, each.values())
        for each, place in zip(gradients, ends, strict=True)
    ]


@contextmanager
def of_tokens_alone(model: nn.Module, group: ProcessGroup) -> Iterator[None]:
    """Make the gradients of trainable embeddings sparse inside the context; not with several processes, which may have
    different tokens."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding) and group.world_size == 1]
    chosen = [each for each in embeddings if each.weight.requires_grad and not (each.sparse or each.scale_grad_by_freq)]
    for module in chosen:
        module.sparse = True
    try:
        yield
    finally:
        for module in chosen:
            module.sparse = False


@contextmanager
def cast_once(device: torch.device) -> Iterator[None]:
    """Let autocast cast each trainable weight once inside the context, instead of once a pass.

    autocast drops its casts at the end of the outermost context, even of one that is disabled. Run no forward pass
    without gradients inside: its casts would have none in later passes either.
    """
    with torch.autocast(device.type, enabled=False):
        yield
