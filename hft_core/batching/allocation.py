"""Decide how many units of each task each step takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hft_core.batching.alignment import alignable, aligned_columns, aligned_groups
from hft_core.batching.mixture import Mixture

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Allocation:
    """The number of units of each task in each step."""

    mixture: Mixture
    sizes: np.ndarray
    """`[steps]`: units in each step, of all tasks."""
    leaders: tuple[str, ...]
    """For each task, the first one that it can be aligned with (`alignment.alignable`)."""
    starts: np.ndarray
    """`[steps + 1, tasks]`: units of each task taken before each step, and by the whole stage."""

    @classmethod
    def of(cls, mixture: Mixture, *, batch: int, total: int, same_inputs_as: Mapping[str, str]) -> Allocation:
        """Allocate steps of `batch` units, and `total` in all steps. `same_inputs_as`: see
        `hft_core.batching.shared_inputs`."""
        steps, tasks = max(1, math.ceil(total / batch)), tuple(mixture.rows)
        sizes = np.full(steps, batch)
        if not mixture.sampling.batch_size:
            sizes[-1] = total - batch * (steps - 1)
        leaders = tasks
        if not mixture.sampling.round_robin:  # where no step has rows of two tasks
            units = _expected_units(mixture, steps, batch)
            leaders = tuple(alignable(tasks, same_inputs_as, units, mixture.budgets))
        empty = cls(mixture, sizes, leaders, np.zeros((steps + 1, len(tasks)), np.int64))
        return empty.changed(0, np.ones(len(tasks)))

    @property
    def steps(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def aligned(self) -> list[int]:
        """For each task, the column of the first one that takes the same units in each step; its own without one."""
        return aligned_columns(self.leaders, self.starts)

    def changed(self, step: int, factors: np.ndarray) -> Allocation:
        """Allocate the steps from `step` on anew, with the tasks' proportions multiplied by `factors` `[tasks]`.

        A task whose budget is spent gets no more. The stage ends early where no task is left.
        """
        starts, budgets, last, begin = self.starts.copy(), self.mixture.budgets, self.steps, step
        while step < last:
            active = factors * (starts[step] < budgets)
            if not active.any():
                last = step
                break
            reached = starts[step] + np.cumsum(self._counts(step, active, starts), axis=0)
            spent = np.flatnonzero(((reached >= budgets) & (active > 0)).any(axis=1))
            stop = step + int(spent[0]) + 1 if len(spent) else last
            starts[step + 1 : stop + 1] = reached[: stop - step]
            step = stop
        while last > begin + 1 and (starts[last] == starts[last - 1]).all():
            last -= 1  # aligned tasks take whole units: nothing may be left for the last step
        return Allocation(self.mixture, self.sizes, self.leaders, starts[: last + 1])

    def _counts(self, step: int, factors: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """`[steps, tasks]`: the units of each task in each step from `step` on; `starts`: those before it."""
        sampling, steps, tasks = self.mixture.sampling, np.arange(step, self.steps), len(self.leaders)
        if sampling.batch_size:
            return np.tile(_fixed(self.mixture) * (factors > 0), (len(steps), 1))
        sizes = self.sizes[steps]
        if sampling.round_robin:
            active = np.flatnonzero(factors)
            in_turn: np.ndarray = active[steps % len(active)][:, None] == np.arange(tasks)
            return np.where(in_turn, sizes[:, None], 0)
        proportions = self.mixture.proportions(steps / self.steps, factors)
        counts = _low_discrepancy_counts(proportions, steps, sizes, last=int(np.flatnonzero(factors)[-1]))
        for group in aligned_groups(aligned_columns(self.leaders, starts[: step + 1]), factors):
            counts[:, group] = _rounded_up(proportions[:, group].mean(axis=1) * sizes)[:, None]
        return counts


def _expected_units(mixture: Mixture, steps: int, batch: int) -> np.ndarray:
    """`[steps, tasks]`, or `[1, tasks]` where all steps are alike."""
    if mixture.sampling.batch_size:
        return _fixed(mixture)[None]
    return mixture.proportions(np.arange(steps) / steps, np.ones(len(mixture.rows))) * batch


def _fixed(mixture: Mixture) -> np.ndarray:
    """`[tasks]`: the units of each task in each step that the recipe gives."""
    return np.array([mixture.sampling.batch_size[task] for task in mixture.rows])


def _low_discrepancy_counts(proportions: np.ndarray, steps: np.ndarray, sizes: np.ndarray, *, last: int) -> np.ndarray:
    """`[steps, tasks]`: whole units whose sums over steps follow `proportions`; `last`: the last active task.

    Unit i of step s is the point (i + u_s) / size of [0, 1), which the proportions divide: a step has exactly its size
    of units, and proportions are exact over time. u_s is the golden-ratio sequence, the most even there is.
    """
    bounds = np.cumsum(proportions, axis=1)
    bounds[:, last:] = 1.0
    shifts = (steps * _GOLDEN + 0.5) % 1.0
    upto = np.clip(np.ceil(bounds * sizes[:, None] - shifts[:, None]), 0, sizes[:, None]).astype(np.int64)
    upto[:, last:] = sizes[:, None]
    counts: np.ndarray = np.diff(upto, axis=1, prepend=0)
    return counts


def _rounded_up(units: np.ndarray) -> np.ndarray:
    """`[steps]`: whole units whose running sum is that of `units`, rounded up."""
    upto = np.ceil(np.cumsum(units) - 1e-6).astype(np.int64)
    return np.diff(upto, prepend=0)
