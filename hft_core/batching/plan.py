"""The plan of a stage: which examples of which tasks each step learns from.

It is a pure function of (seed, stage, step), and of the changes that dev scores made to the shares: the same on every
process and after every resume. Each step's rows are divided among the tasks by their shares; each task walks through
its units in passes, every pass a new permutation in which the rows of one step are of like length, in steps that are
short for one task and for all others too.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hft_core.batching.mixture import Mixture

LIKE_LENGTH_STEPS = 50
"""Rows of so many steps are sorted by length together. More makes batches more even and the shuffle less thorough."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Part:
    """Units of one task (examples, or examples that belong together) in one step, all of the same pass."""

    task: str
    epoch: int
    """The pass over the task's units, 0 for the first: random masks depend on it."""
    units: np.ndarray
    """`[n]` unit numbers."""
    walk: str = ""
    """The first of the tasks that walk through the same units with it, step by step; empty: it has none beside it."""

    @property
    def way(self) -> tuple[str, int]:
        """The walk and its pass: in one step, tasks of one family have the same units where these are the same."""
        return self.walk or self.task, self.epoch


class Plan:
    """All steps of a stage, each computed when it is asked for."""

    def __init__(
        self,
        lengths: Mapping[str, np.ndarray],
        mixture: Mixture,
        *,
        batch: int,
        total: int,
        seed: int,
        stage: int,
        families: Mapping[str, str] | None = None,
    ) -> None:
        """`lengths`: tokens of each unit by task; `batch`: units in a step; `total`: units in all steps; `families`:
        for each task the first one with the same inputs (`hft_core.batching.shared_inputs`); without it, no
        two have the same."""
        self.tasks = tuple(lengths)
        self.batch = batch
        self.steps = max(1, math.ceil(total / batch))
        self._lengths = lengths
        self._mixture = mixture
        self._key = (seed, stage)
        self._sizes = np.full(self.steps, batch)
        if not mixture.sampling.batch_size:
            self._sizes[-1] = total - batch * (self.steps - 1)
        self._starts = np.zeros((self.steps + 1, len(self.tasks)), np.int64)
        self.changes: list[tuple[int, dict[str, float]]] = []
        """Those made so far, each with its step."""
        self._families = self._with_equal_shares(families or {})
        self._walks = list(range(len(self.tasks)))
        """For each task, the column of the one whose walk it shares: its own where it walks alone."""
        self._heights = np.random.default_rng((*self._key, zlib.crc32(b"lengths"))).random(self.steps)
        """`[steps]`: where a step's rows stand among those of the steps around it, from the shortest to the longest."""
        self._begun: dict[tuple[int, int], tuple[int, np.ndarray]] = {}
        self._pass = lru_cache(maxsize=4 * len(self.tasks))(self._make_pass)
        self._divide_from(0, np.ones(len(self.tasks)))

    def change(self, step: int, factors: Mapping[str, float]) -> None:
        """From step `step` on, multiply the tasks' usual shares by `factors`; 0 takes a task out. What is left of each
        task's current pass stays what it is. The stage ends early where no task is left.

        The plan is a pure function of (seed, stage, changes so far, step).
        """
        self.changes.append((step, dict(factors)))
        for column, start in enumerate(self._starts[step]):
            epoch, offset = divmod(int(start), len(self._lengths[self.tasks[column]]))
            if offset:
                self._begun[column, epoch] = (offset, self._pass(self._walks[column], epoch))
        self._pass.cache_clear()
        self._divide_from(step, np.array([factors.get(task, 1.0) for task in self.tasks]))

    def _divide_from(self, step: int, factors: np.ndarray) -> None:
        """Fill in how far each task has come when each later step starts; a task whose budget is spent leaves."""
        budgets, first = self._mixture.budgets, step
        while step < self.steps:
            done = self._starts[step]
            active = factors * (done < budgets)
            if not active.any():
                self.steps = step
                break
            reached = done + np.cumsum(self._counts(step, active), axis=0)
            spent = np.flatnonzero(((reached >= budgets) & (active > 0)).any(axis=1))
            stop = step + int(spent[0]) + 1 if len(spent) else self.steps
            self._starts[step + 1 : stop + 1] = reached[: stop - step]
            step = stop
        while self.steps > first + 1 and (self._starts[self.steps] == self._starts[self.steps - 1]).all():
            self.steps -= 1  # families take whole texts: nothing may be left for the last step
        self._starts = self._starts[: self.steps + 1]
        self._walks = self._walks_until(self.steps)

    def _counts(self, step: int, factors: np.ndarray) -> np.ndarray:
        """`[steps, tasks]`: the units of each task in each step from `step` on."""
        steps = np.arange(step, self.steps)
        if self._mixture.sampling.batch_size:
            fixed = np.array([self._mixture.sampling.batch_size[task] for task in self.tasks])
            return np.tile(fixed * (factors > 0), (len(steps), 1))
        sizes = self._sizes[steps]
        if self._mixture.sampling.round_robin:
            turns = np.flatnonzero(factors)
            on_turn: np.ndarray = turns[steps % len(turns)][:, None] == np.arange(len(self.tasks))
            return np.where(on_turn, sizes[:, None], 0)
        # Row i of step s is the point (i + u_s) / size of [0, 1), which the tasks' shares divide: a step has exactly
        # its size of rows, and shares are exact over time. u_s is the golden-ratio sequence, the most even there is.
        shares = self._mixture.shares(steps / self.steps, factors)
        bounds = np.cumsum(shares, axis=1)
        bounds[:, np.flatnonzero(factors)[-1] :] = 1.0
        shifts = (steps * _GOLDEN + 0.5) % 1.0
        upto = np.clip(np.ceil(bounds * sizes[:, None] - shifts[:, None]), 0, sizes[:, None]).astype(np.int64)
        upto[:, np.flatnonzero(factors)[-1] :] = sizes[:, None]
        counts: np.ndarray = np.diff(upto, axis=1, prepend=0)
        for members in self._side_by_side(step, factors):
            counts[:, members] = _whole(shares[:, members].mean(axis=1) * sizes)[:, None]
        return counts

    # --- families: tasks over the same texts walk side by side, so that a step has each text for all of them

    def _with_equal_shares(self, families: Mapping[str, str]) -> list[str]:
        """For each task, the first one of its family with the same share, of a row a step at least: less than that
        would leave steps without any. Tasks that take turns have no step in common."""
        sampling, steps = self._mixture.sampling, np.arange(self.steps)
        found = list(self.tasks)
        if sampling.round_robin:
            return found
        if sampling.batch_size:
            shares = np.array([[sampling.batch_size[task] for task in self.tasks]])
        else:
            shares = self._mixture.shares(steps / self.steps, np.ones(len(self.tasks))) * self.batch
        budgets = self._mixture.budgets
        for column, task in enumerate(self.tasks):
            for earlier, other in enumerate(self.tasks[:column]):
                related = families.get(task, task) == families.get(other, other)
                if related and budgets[earlier] == budgets[column] and _alike(shares[:, earlier], shares[:, column]):
                    found[column] = found[earlier]
                    break
        return found

    def _walks_until(self, step: int) -> list[int]:
        """For each task, the column of the first one of its family that was as far as it when each step up to `step`
        began: their passes are the same."""
        starts, walks = self._starts[: step + 1], list(range(len(self.tasks)))
        for column, family in enumerate(self._families):
            for earlier in range(column):
                if self._families[earlier] == family and np.array_equal(starts[:, earlier], starts[:, column]):
                    walks[column] = walks[earlier]
                    break
        return walks

    def _side_by_side(self, step: int, factors: np.ndarray) -> list[np.ndarray]:
        """The columns of tasks that have come to `step` together, and go on together."""
        together: dict[tuple[int, float], list[int]] = {}
        for column, walk in enumerate(self._walks_until(step)):
            if factors[column]:
                together.setdefault((walk, float(factors[column])), []).append(column)
        return [np.array(columns) for columns in together.values() if len(columns) > 1]

    def passes(self, task: str) -> float:
        """How often the stage goes through the task's units."""
        return float(self._starts[-1, self.tasks.index(task)]) / len(self._lengths[task])

    def step(self, index: int) -> list[Part]:
        """What step `index` (0 for the first) learns from, in the order of the tasks."""
        parts = []
        for column, task in enumerate(self.tasks):
            start, stop = int(self._starts[index, column]), int(self._starts[index + 1, column])
            size = len(self._lengths[task])
            while start < stop:
                epoch, offset = divmod(start, size)
                end = min(stop, (epoch + 1) * size)
                walk = self._walks[column]
                units = self._pass(walk, epoch)[offset : offset + end - start]
                parts.append(Part(task, epoch, units, self.tasks[walk]))
                start = end
        return parts

    def _make_pass(self, column: int, epoch: int) -> np.ndarray:
        """The order of one pass: a permutation whose runs, as the steps cut them, are of like length."""
        family, lengths = self._families[column], self._lengths[self.tasks[column]]
        kept, order = self._begun.get((column, epoch), (0, None))
        random = np.random.default_rng((*self._key, zlib.crc32(family.encode()), epoch, *([kept] if kept else [])))
        order = random.permutation(len(lengths)) if order is None else order.copy()
        first = epoch * len(lengths)
        edges = np.clip(self._starts[:, column] - first, kept, len(lengths))
        steps = np.flatnonzero(np.diff(edges))  # those that have units of this pass
        for left in range(0, len(steps), LIKE_LENGTH_STEPS):
            here = steps[left : left + LIKE_LENGTH_STEPS]
            chunk = order[edges[here[0]] : edges[here[-1] + 1]]
            ordered = chunk[np.argsort(lengths[chunk], kind="stable")]
            chunk[:] = _dealt(ordered, np.diff(edges)[here], self._heights[here])
        return order


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two tasks have the same number of units in each step `[steps]`, and at least one."""
    return np.array_equal(one, other) and bool(one.min() >= 1 - 1e-9)


def _whole(units: np.ndarray) -> np.ndarray:
    """`[steps]` whole units, of which there are never fewer than `units` so far, and less than one more."""
    upto = np.ceil(np.cumsum(units) - 1e-6).astype(np.int64)
    return np.diff(upto, prepend=0)


def _dealt(ordered: np.ndarray, sizes: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Deal consecutive runs of `ordered` to slots of the given sizes, from the lowest slot to the highest."""
    turn = np.argsort(heights)
    ends = np.cumsum(sizes[turn])
    runs: list[np.ndarray] = [np.empty(0, np.int64)] * len(sizes)
    for slot, end in zip(turn, ends, strict=True):
        runs[slot] = ordered[end - sizes[slot] : end]
    return np.concatenate(runs)
