"""Order the units of a task in each epoch: a permutation in which the units of one step have similar lengths."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hft_core.batching.allocation import Allocation

SIMILAR_LENGTH_STEPS = 50
"""Units of so many steps are sorted by length together. More makes batches more even and the shuffle less thorough."""


@dataclass(frozen=True)
class Prefix:
    """The part of an epoch that was taken before the allocation changed."""

    length: int
    order: np.ndarray
    """`[units]`: the whole order of the epoch, of which the first `length` are fixed."""


class EpochOrders:
    """The order of each task's units in each epoch, for one allocation. Immutable, and a function of its arguments."""

    def __init__(
        self,
        lengths: Sequence[np.ndarray],
        allocation: Allocation,
        *,
        seed: tuple[int, int],
        ranks: np.ndarray | None = None,
        prefixes: Mapping[tuple[int, int], Prefix] | None = None,
    ) -> None:
        """`lengths`: tokens of each unit, by column; `seed`: of the run, and the stage's index; `ranks`: `[steps]`,
        whether a step gets the short or the long ones of the units that are sorted together, random by default;
        `prefixes`: by column and epoch."""
        self._lengths = lengths
        self._allocation = allocation
        self._seed = seed
        self._prefixes = dict(prefixes or {})
        if ranks is None:
            ranks = np.random.default_rng((*seed, zlib.crc32(b"lengths"))).random(allocation.steps)
        self._ranks = ranks
        self.order = lru_cache(maxsize=4 * len(lengths))(self._order)
        """`[units]`: the order of a column's epoch."""

    def changed(self, step: int, allocation: Allocation) -> EpochOrders:
        """Return the orders for an allocation that differs from `step` on. What was taken of an epoch stays as it is,
        and what is left of it keeps its place in the shuffle."""
        prefixes = dict(self._prefixes)
        for column, start in enumerate(self._allocation.starts[step]):
            if not len(self._lengths[column]):  # a stream, whose order is its own
                continue
            epoch, offset = divmod(int(start), len(self._lengths[column]))
            if offset:
                prefixes[column, epoch] = Prefix(offset, self.order(self._allocation.aligned[column], epoch))
        return EpochOrders(self._lengths, allocation, seed=self._seed, ranks=self._ranks, prefixes=prefixes)

    def _order(self, column: int, epoch: int) -> np.ndarray:
        leader, lengths = self._allocation.leaders[column], self._lengths[column]
        prefix = self._prefixes.get((column, epoch))
        fixed = prefix.length if prefix else 0
        random = np.random.default_rng((*self._seed, zlib.crc32(leader.encode()), epoch, *([fixed] if fixed else [])))
        order = prefix.order.copy() if prefix else random.permutation(len(lengths))
        edges = np.clip(self._allocation.starts[:, column] - epoch * len(lengths), fixed, len(lengths))
        steps = np.flatnonzero(np.diff(edges))  # those that take units of this epoch
        for first in range(0, len(steps), SIMILAR_LENGTH_STEPS):
            together = steps[first : first + SIMILAR_LENGTH_STEPS]
            chunk = order[edges[together[0]] : edges[together[-1] + 1]]
            by_length = chunk[np.argsort(lengths[chunk], kind="stable")]
            chunk[:] = _deal(by_length, np.diff(edges)[together], self._ranks[together])
        return order


def _deal(units: np.ndarray, sizes: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Cut `units` into slots of the given sizes: consecutive runs, the first of which go to the slots of lowest rank.
    Returns the slots one after the other."""
    slots = np.argsort(ranks)
    ends = np.cumsum(sizes[slots])
    runs: list[np.ndarray] = [np.empty(0, np.int64)] * len(sizes)
    for slot, end in zip(slots, ends, strict=True):
        runs[slot] = units[end - sizes[slot] : end]
    return np.concatenate(runs)
