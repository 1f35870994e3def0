"""Compare and sum the tasks' gradients with respect to the trunk's last hidden states.

Tasks with the same rows are compared exactly, by the inner products of their gradients. Tasks with rows of their own
have gradients that are 0 wherever another's are not; these are compared by the gradients summed over rows and tokens,
which is the gradient with respect to a common shift of all hidden states.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hft_core.batching.batch import Batch
from hft_core.device.machine import Machine


@dataclass(frozen=True)
class HiddenGradient:
    """The gradient of one task's mean loss with respect to the hidden states of some rows of a batch."""

    index: int
    """Of the task among those of the step."""
    rows: slice
    values: Tensor
    """`[rows, seq, hidden]`"""


class Comparison:
    """The gradients that a combiner gets, summed batch by batch.

    `add` needs memory for the hidden states of one batch per task, in float32.
    """

    def __init__(self, tasks: int, hidden_size: int, machine: Machine, *, exact: bool) -> None:
        """`exact`: all tasks have the same rows, and the combiner uses only the Gramian of the gradients."""
        self._exact, self._group = exact, machine.group
        self._sums = torch.zeros(tasks, tasks if exact else hidden_size, device=machine.device)

    def add(self, hidden: Tensor, gradients: Sequence[HiddenGradient]) -> None:
        """Add the gradients of one batch; `hidden`: its hidden states `[batch, seq, hidden]`."""
        if self._exact:
            whole = torch.zeros(len(self._sums), *hidden.shape, device=hidden.device)
            for gradient in gradients:
                whole[gradient.index, gradient.rows] += gradient.values
            flat = whole.flatten(start_dim=1)
            self._sums += flat @ flat.T
            return
        for gradient in gradients:
            self._sums[gradient.index] += gradient.values.float().sum(dim=(0, 1))

    def gradients(self) -> Tensor:
        """Return the gradients `[t, p]` over the rows of all processes; to be called once.

        They are sums over rows and tokens, or, where the comparison is exact, vectors `[t, t]` with the Gramian of the
        gradients themselves.
        """
        sums = self._group.all_reduce(self._sums)
        return vectors_with_gramian(sums) if self._exact else sums


def weighted_sum(hidden: Tensor, gradients: Sequence[HiddenGradient], factors: Tensor) -> Tensor:
    """Return the sum of a batch's gradients times their tasks' factors, `[batch, seq, hidden]`."""
    total = torch.zeros_like(hidden)
    for gradient in gradients:
        total[gradient.rows] += gradient.values * factors[gradient.index].to(gradient.values.dtype)
    return total


def same_rows(batches: Sequence[Batch], tasks: Collection[str]) -> bool:
    """Return whether all `tasks`, at least two, have the same rows in each batch."""
    for batch in batches:
        rows: dict[str, set[tuple[int, int]]] = {task: set() for task in tasks}
        for segment in batch.segments:
            if segment.task in rows:
                rows[segment.task].add((segment.rows.start, segment.rows.stop))
        first, *others = rows.values()
        if any(other != first for other in others):
            return False
    return len(tasks) > 1


def vectors_with_gramian(gramian: Tensor) -> Tensor:
    """Return vectors `[t, t]` with the given Gramian `[t, t]`; the Gramian itself where it is not finite."""
    if not bool(torch.isfinite(gramian).all()):
        return gramian
    values, vectors = torch.linalg.eigh(gramian.cpu().double())
    rows: Tensor = vectors * values.clamp(min=0).sqrt()
    return rows.to(gramian)
