"""Plan a stage: which examples of which tasks each step trains on.

A plan is a pure function of (seed, stage, changes so far, step), so all processes and resumed runs have the same one.
It composes `allocation`, how many units of each task a step takes; `alignment`, which tasks take the same ones; and
`epoch_order`, the permutation of a task's units in each epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hft_core.batching.allocation import Allocation
from hft_core.batching.epoch_order import EpochOrders
from hft_core.batching.mixture import Mixture


@dataclass(frozen=True)
class TaskSlice:
    """Units of one task in one step, all of the same epoch. A unit is an example, or a group of examples that stay
    together, such as the choices of a question (`hft_core.head.Encoded.units`)."""

    task: str
    epoch: int
    """Over the task's units, 0 for the first: random masks depend on it. 0 for a stream."""
    units: np.ndarray
    """`[n]` unit numbers; of a stream, counted from its beginning."""
    aligned_with: str = ""
    """The first task with shared inputs that takes the same units in each step; empty or itself: none before it."""

    @property
    def order_key(self) -> tuple[str, int]:
        """Which order the units are a part of. Slices of one step with equal keys may have equal units."""
        return self.aligned_with or self.task, self.epoch


class Plan:
    """All steps of a stage, each computed on demand."""

    def __init__(
        self,
        lengths: Mapping[str, np.ndarray],
        mixture: Mixture,
        *,
        batch: int,
        total: int,
        seed: int,
        stage: int,
        same_inputs_as: Mapping[str, str] | None = None,
    ) -> None:
        """`lengths`: tokens of each unit by task, none for one that streams; `batch`: units in a step; `total`: units
        in all steps; `same_inputs_as`: for each task the first one with the same inputs
        (`hft_core.batching.shared_inputs`), itself by default."""
        self.tasks = tuple(lengths)
        self.batch = batch
        self.changes: list[tuple[int, dict[str, float]]] = []
        """Changes so far, each with its step."""
        self._lengths = lengths
        self._allocation = Allocation.of(mixture, batch=batch, total=total, same_inputs_as=same_inputs_as or {})
        self._orders = EpochOrders(list(lengths.values()), self._allocation, seed=(seed, stage))

    @property
    def steps(self) -> int:
        return self._allocation.steps

    def change(self, step: int, factors: Mapping[str, float]) -> None:
        """Multiply the tasks' usual proportions by `factors` from step `step` on; 0 takes a task out. The epoch that a
        task is in keeps its units. The stage ends early where no task is left."""
        self.changes.append((step, dict(factors)))
        self._allocation = self._allocation.changed(step, np.array([factors.get(task, 1.0) for task in self.tasks]))
        self._orders = self._orders.changed(step, self._allocation)

    def passes(self, task: str) -> float:
        """Return how many epochs of the task's units the stage takes; 0 for a stream."""
        units = len(self._lengths[task])
        return self.taken(task, self.steps) / units if units else 0.0

    def taken(self, task: str, step: int) -> int:
        """Return how many units of the task the first `step` steps take."""
        return int(self._allocation.starts[step, self.tasks.index(task)])

    def step(self, index: int) -> list[TaskSlice]:
        """Return what step `index` (0 for the first) trains on, in the order of the tasks."""
        slices = []
        for column, task in enumerate(self.tasks):
            start, stop = (int(edge) for edge in self._allocation.starts[index : index + 2, column])
            size, first = len(self._lengths[task]), self._allocation.aligned[column]
            if not size and start < stop:
                slices.append(TaskSlice(task, 0, np.arange(start, stop)))
                continue
            while start < stop:
                epoch, offset = divmod(start, size)
                end = min(stop, (epoch + 1) * size)
                units = self._orders.order(first, epoch)[offset : offset + end - start]
                slices.append(TaskSlice(task, epoch, units, self.tasks[first]))
                start = end
        return slices
