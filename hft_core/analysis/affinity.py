"""Measure what a step on one task does to the losses of the others (Fifty et al. 2021, arXiv:2109.04617), and which
tasks to train together by that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hft_core.analysis.draws import loss_of
from hft_core.batching.batch import Batch
from hft_core.device.machine import Machine
from hft_core.model.hybrid import HybridModel

STEP = 0.01
"""Length of a step, times the stage's learning rate. A whole step from trained weights overshoots, above all for a task
whose loss is near zero; the losses change in proportion to a short one."""
MOST_TASKS = 8
"""All ways to divide more tasks into groups are too many to try: 4,140 for eight."""


def look_ahead(
    model: HybridModel,
    parameters: Sequence[nn.Parameter],
    batches: Mapping[str, Batch],
    gradients: Sequence[Sequence[Tensor]],
    before: Sequence[float],
    machine: Machine,
    *,
    length: float,
) -> list[list[float]]:
    """Return by how much each task's loss falls after a step on each task, as a share of the loss: `[stepped, other]`.

    The step is along the gradient of the shared parameters alone; the root mean square of its changes is `length`.
    `gradients`, `before`: the tasks' gradients and losses on `batches`.
    """
    found = []
    for of_task in gradients:
        with _stepped(parameters, of_task, length), torch.no_grad():
            after = [float(loss_of(model, task, batch, machine)) for task, batch in batches.items()]
        found.append([1 - new / old if old else 0.0 for new, old in zip(after, before, strict=True)])
    return found


@contextmanager
def _stepped(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], length: float) -> Iterator[None]:
    """Inside, the parameters are a step further down the gradient."""
    kept = [parameter.detach().clone() for parameter in parameters]
    count = sum(gradient.numel() for gradient in gradients)
    size = (sum(float(gradient.double().square().sum()) for gradient in gradients) / count) ** 0.5
    try:
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient.to(parameter.dtype), alpha=length / size if size else 0.0)
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(parameters, kept, strict=True):
                parameter.copy_(old)


def best_groups(tasks: Sequence[str], affinity: Sequence[Sequence[float]]) -> list[list[str]]:
    """Return the division of the tasks into groups that the affinities speak for.

    A task in a group counts with the mean of what steps on the others of the group do to its loss, a task alone with 0;
    the division with the largest sum is taken, of equal ones the one with the fewest groups.
    """
    best: tuple[float, int, list[list[int]]] = (float("-inf"), 0, [])
    for groups in _divisions(list(range(len(tasks)))):
        value = sum(_gain(task, group, affinity) for group in groups for task in group)
        if (value, -len(groups)) > best[:2]:
            best = (value, -len(groups), groups)
    return [[tasks[i] for i in group] for group in best[2]]


def _gain(task: int, group: Sequence[int], affinity: Sequence[Sequence[float]]) -> float:
    others = [affinity[other][task] for other in group if other != task]
    return sum(others) / len(others) if others else 0.0


def _divisions(items: list[int]) -> Iterator[list[list[int]]]:
    """Yield all ways to divide items into groups."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for groups in _divisions(rest):
        yield [[first], *groups]
        for i, group in enumerate(groups):
            yield [*groups[:i], [first, *group], *groups[i + 1 :]]
