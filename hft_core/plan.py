"""The plan of a stage: which examples of which tasks each step learns from.

It is a pure function of (seed, stage, step): the same on every process and after every resume, with nothing to save but
the number of the step. Each step's rows are divided among the tasks by their shares; each task walks through its
examples in passes, every pass a new permutation in which the rows of one step are of like length.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hft_core.recipe import Sampling

LIKE_LENGTH_STEPS = 50
"""Rows of so many steps are sorted by length together. More makes batches more even and the shuffle less thorough."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Part:
    """Examples of one task in one step, all of the same pass."""

    task: str
    epoch: int
    """The pass over the task's examples, 0 for the first: random masks depend on it."""
    examples: np.ndarray
    """`[n]` example numbers."""


def shares(rows: Mapping[str, int], sampling: Sampling) -> dict[str, float]:
    """Each task's share of a step: ∝ weight · rows^(1/temperature)."""
    raw = {task: sampling.weights.get(task, 1.0) * count ** (1 / sampling.temperature) for task, count in rows.items()}
    total = sum(raw.values())
    return {task: value / total for task, value in raw.items()}


class Plan:
    """All steps of a stage, each computed when it is asked for."""

    def __init__(
        self,
        lengths: Mapping[str, np.ndarray],
        share: Mapping[str, float],
        *,
        batch: int,
        total: int,
        seed: int,
        stage: int,
    ) -> None:
        """`lengths`: tokens of each example by task; `batch`: examples in a step; `total`: examples in all steps."""
        self.tasks = tuple(lengths)
        self.steps = max(1, math.ceil(total / batch))
        self._lengths = lengths
        self._key = (seed, stage)
        # Row i of step s is the point (i + u_s) / batch of [0, 1), which the tasks' shares divide: a step has exactly
        # `batch` rows, and shares are exact over time. u_s is the golden-ratio sequence, the most even there is.
        bounds = np.cumsum([share[task] for task in self.tasks])
        bounds[-1] = 1.0
        sizes = np.full(self.steps, batch)
        sizes[-1] = total - batch * (self.steps - 1)
        shifts = (np.arange(self.steps) * _GOLDEN + 0.5) % 1.0
        upto = np.clip(np.ceil(bounds[None, :] * sizes[:, None] - shifts[:, None]), 0, sizes[:, None]).astype(np.int64)
        upto[:, -1] = sizes
        counts = np.diff(upto, axis=1, prepend=0)
        self._starts = np.vstack([np.zeros((1, len(self.tasks)), np.int64), np.cumsum(counts, axis=0)])
        self._pass = lru_cache(maxsize=4 * len(self.tasks))(self._make_pass)

    def step(self, index: int) -> list[Part]:
        """What step `index` (0 for the first) learns from, in the order of the tasks."""
        parts = []
        for column, task in enumerate(self.tasks):
            start, stop = int(self._starts[index, column]), int(self._starts[index + 1, column])
            size = len(self._lengths[task])
            while start < stop:
                epoch, offset = divmod(start, size)
                end = min(stop, (epoch + 1) * size)
                parts.append(Part(task, epoch, self._pass(column, epoch)[offset : offset + end - start]))
                start = end
        return parts

    def _make_pass(self, column: int, epoch: int) -> np.ndarray:
        """The order of one pass: a permutation whose runs, as the steps cut them, are of like length."""
        task = self.tasks[column]
        lengths = self._lengths[task]
        random = np.random.default_rng((*self._key, zlib.crc32(task.encode()), epoch))
        order = random.permutation(len(lengths))
        starts = self._starts[:, column]
        first, last = epoch * len(lengths), (epoch + 1) * len(lengths)
        inside = np.unique(starts[(starts > first) & (starts < last)]) - first
        cuts = np.concatenate([[0], inside, [len(lengths)]])
        for left in range(0, len(cuts) - 1, LIKE_LENGTH_STEPS):
            edges = cuts[left : left + LIKE_LENGTH_STEPS + 1]
            chunk = order[edges[0] : edges[-1]]
            chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
            order[edges[0] : edges[-1]] = _runs_shuffled(chunk, np.diff(edges), random)
        return order


def _runs_shuffled(ordered: np.ndarray, sizes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Deal consecutive runs of `ordered` to slots of the given sizes, the slots taken in random order."""
    turn = random.permutation(len(sizes))
    ends = np.cumsum(sizes[turn])
    runs: list[np.ndarray] = [np.empty(0, np.int64)] * len(sizes)
    for slot, end in zip(turn, ends, strict=True):
        runs[slot] = ordered[end - sizes[slot] : end]
    return np.concatenate(runs)
