"""The tasks' gradients with respect to the trunk's last hidden states: how they are compared, and how added up.

Tasks that all have the same rows are compared exactly, by the products of their gradients over all of these rows. Tasks
with rows of their own have gradients that are 0 wherever another's are not; what can be compared is what a common shift
of all hidden states would do: the gradients summed over rows and tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hft_core.batching.batch import Batch
from hft_core.device.distributed import Machine


@dataclass(frozen=True)
class HiddenGradient:
    """The gradient of one task's mean loss with respect to the hidden states of some rows of a batch."""

    index: int
    """The task's place among those of the step."""
    rows: slice
    values: Tensor
    """`[rows, seq, hidden]`"""


class Comparison:
    """What a combiner is shown of a step's gradients, added up batch by batch.

    Beside the step itself it takes, for the time of `add`, the hidden states of one batch once a task, in float32.
    """

    def __init__(self, tasks: int, hidden_size: int, machine: Machine, *, exact: bool) -> None:
        """`exact`: all tasks have the same rows, and the combiner goes by products alone."""
        self._exact, self._machine = exact, machine
        self._sums = torch.zeros(tasks, tasks if exact else hidden_size, device=machine.device)

    def add(self, hidden: Tensor, gradients: Sequence[HiddenGradient]) -> None:
        """Add those of one batch, whose hidden states are `hidden` `[batch, seq, hidden]`."""
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
        """`[t, p]`, of the rows of all processes; to be asked for once. The sums over rows and tokens, or, where the
        comparison is exact, vectors `[t, t]` with the same products as the gradients themselves."""
        sums = self._machine.group.all_reduce(self._sums)
        return with_products(sums) if self._exact else sums


def added_up(hidden: Tensor, gradients: Sequence[HiddenGradient], factors: Tensor) -> Tensor:
    """`[batch, seq, hidden]`: the gradients of a batch, each times its task's factor."""
    total = torch.zeros_like(hidden)
    for gradient in gradients:
        total[gradient.rows] += gradient.values * factors[gradient.index].to(gradient.values.dtype)
    return total


def same_rows(batches: Sequence[Batch], tasks: Collection[str]) -> bool:
    """Whether all of `tasks`, of which there are some, have all rows of each batch that one of them has."""
    for batch in batches:
        rows: dict[str, set[tuple[int, int]]] = {task: set() for task in tasks}
        for segment in batch.segments:
            if segment.task in rows:
                rows[segment.task].add((segment.rows.start, segment.rows.stop))
        first, *others = rows.values()
        if any(other != first for other in others):
            return False
    return len(tasks) > 1


def with_products(products: Tensor) -> Tensor:
    """Vectors `[t, t]` whose products are `products` `[t, t]`; these themselves where they are not finite."""
    if not bool(torch.isfinite(products).all()):
        return products
    values, vectors = torch.linalg.eigh(products.cpu().double())
    rows: Tensor = vectors * values.clamp(min=0).sqrt()
    return rows.to(products)
