"""The gradients of a step's tasks with respect to the parameters that they share: one row a task, kept in pieces.

A combiner that goes by products is given these alone, added up parameter by parameter, and no matrix of all gradients
is ever made. Gradients of embeddings hold the tokens of the step and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hft_core.machine import Machine


class Jacobian:
    """`[t, p]`, for `t` tasks and the `p` values of the shared parameters."""

    def __init__(self, parameters: Sequence[nn.Parameter], tasks: int) -> None:
        self.parameters = list(parameters)
        self._held: list[list[Tensor | None]] = [[None] * tasks for _ in self.parameters]
        """By parameter and task; nothing where a task has none (yet)."""

    def add(self, task: int, gradients: Sequence[Tensor | None]) -> None:
        """Add a task's gradients of the parameters; they are kept, not copied. One of an embedding may be sparse."""
        for held, gradient in zip(self._held, gradients, strict=True):
            before = held[task]
            if gradient is not None:
                total = gradient if before is None else before + gradient
                held[task] = total.coalesce() if total.is_sparse else total

    def add_up(self, machine: Machine) -> None:
        """Add up those of all processes."""
        if machine.world > 1:
            rows = machine.total(self.rows())
            pieces = torch.split(rows, [parameter.numel() for parameter in self.parameters], dim=1)
            self._held = [
                [row.view_as(parameter) for row in piece]
                for parameter, piece in zip(self.parameters, pieces, strict=True)
            ]

    def rows(self) -> Tensor:
        """The whole matrix, `[t, p]`."""
        columns = [_stacked(p, held).flatten(1) for p, held in zip(self.parameters, self._held, strict=True)]
        return torch.cat(columns, dim=1)

    def products(self) -> Tensor:
        """`[t, t]`: the products of the rows with one another (the Gramian)."""
        found = []
        for parameter, held in zip(self.parameters, self._held, strict=True):
            flat = _of_tokens(parameter, held).flatten(1)
            found.append(flat @ flat.T)
        return torch.stack(found).sum(dim=0)

    def fill(self, factors: Tensor) -> None:
        """Leave in `.grad` of each parameter the sum of the tasks' gradients, each times its factor: `[t]`, or `[t, p]`
        for one a value."""
        if factors.ndim == 2:
            combined = (factors * self.rows()).sum(dim=0)
            parts = torch.split(combined, [parameter.numel() for parameter in self.parameters])
            for parameter, part in zip(self.parameters, parts, strict=True):
                parameter.grad = part.view_as(parameter)
            return
        for parameter, held in zip(self.parameters, self._held, strict=True):
            total = torch.zeros_like(parameter)
            for gradient, factor in zip(held, factors.tolist(), strict=True):
                if gradient is not None:
                    total.add_(gradient, alpha=factor)
            parameter.grad = total


def _stacked(parameter: nn.Parameter, held: Sequence[Tensor | None]) -> Tensor:
    """`[t, *parameter]`"""
    zero = torch.zeros_like(parameter)
    return torch.stack([zero if g is None else g.to_dense() if g.is_sparse else g for g in held])


def _of_tokens(parameter: nn.Parameter, held: Sequence[Tensor | None]) -> Tensor:
    """The same, of an embedding with sparse gradients only those of its rows that any task has, `[t, tokens, d]`."""
    there = [gradient for gradient in held if gradient is not None and gradient.is_sparse]
    if not there or len(there) < sum(gradient is not None for gradient in held):
        return _stacked(parameter, held)
    tokens, places = torch.unique(torch.cat([each.indices()[0] for each in there]), return_inverse=True)
    found = torch.zeros(len(there), len(tokens), *parameter.shape[1:], device=parameter.device)
    ends = torch.split(places, [each.indices().shape[1] for each in there])
    for row, each, place in zip(found, there, ends, strict=True):
        row[place] = each.values().to(row.dtype)
    whole = torch.zeros(len(held), *found.shape[1:], device=parameter.device)
    whole[[index for index, gradient in enumerate(held) if gradient is not None]] = found
    return whole


@contextmanager
def of_tokens_alone(model: nn.Module, machine: Machine) -> Iterator[None]:
    """Inside, the gradients of embeddings that train are sparse. Not with several processes, which may have different
    tokens."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding) and machine.world == 1]
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
    """Inside, autocast casts a weight that trains once, not in every pass: it drops its casts at the end of the
    outermost context, which need not be one that casts. No pass without gradients may be made inside: the cast would
    have none later either."""
    with torch.autocast(device.type, enabled=False):
        yield
