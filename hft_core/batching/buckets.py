"""Group units of similar length, which are padded together, within limits of rows and tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

CALL_TOKENS = 256
"""The cost of one more pass through the trunk, in tokens: below it, padding is cheaper than dividing."""
LENGTH_STEP = 8
"""Lengths are compared in steps of this many tokens when batches are cut."""
EVALUATION_ROWS, EVALUATION_TOKENS = 256, 16384
"""Limits of one evaluation batch."""
CPU_TOKENS = 2048
"""The same on a CPU, whose caches do not hold activations of more tokens (`tests/benchmarks/evaluation_batch.py`)."""


def tokens_at_once(device: torch.device) -> int:
    """Return the limit of padded tokens in a batch without a backward pass."""
    return CPU_TOKENS if device.type == "cpu" else EVALUATION_TOKENS


def group_by_length(
    lengths: np.ndarray, sizes: np.ndarray, kind: np.ndarray, max_units: int, max_tokens: int | None
) -> Iterator[np.ndarray]:
    """Group units of one `kind` and of similar length, within the limits. All arrays are `[units]`; yields indices."""
    for units in (np.flatnonzero(kind == one) for one in dict.fromkeys(kind.tolist())):
        units = units[np.argsort(lengths[units], kind="stable")]
        for group in _cut(units, lengths, sizes):
            rows = max(1, max_tokens // int(lengths[group[-1]])) if max_tokens else None
            yield from _split_evenly(group, sizes[group], max_units, rows)


def _split_evenly(group: np.ndarray, sizes: np.ndarray, max_units: int, max_rows: int | None) -> Iterator[np.ndarray]:
    """Split the group into about as few parts as the limits allow, of about equal size. A unit of more rows than
    `max_rows` is a part of its own."""
    largest = int(sizes.max())
    limit = max_units if max_rows is None else min(max_units, max(1, max_rows // largest))
    if max_rows is None or largest == int(sizes.min()) or len(group) <= limit:
        yield from np.array_split(group, -(-len(group) // limit))
        return
    start, rows = 0, 0
    for stop, size in enumerate(sizes.tolist()):
        if stop > start and (stop - start == max_units or rows + size > max_rows):
            yield group[start:stop]
            start, rows = stop, 0
        rows += size
    yield group[start:]


def runs_within(
    order: np.ndarray, lengths: np.ndarray, sizes: np.ndarray, max_rows: int, max_tokens: int
) -> Iterator[np.ndarray]:
    """Cut `order` into consecutive runs, each as long as the limits allow and at least one unit."""
    start, rows = 0, 0
    for stop, unit in enumerate(order):
        size = int(sizes[unit])
        if stop > start and (rows + size > max_rows or lengths[unit] * (rows + size) > max_tokens):
            yield order[start:stop]
            start, rows = stop, 0
        rows += size
    if len(order):
        yield order[start:]


def _cut(units: np.ndarray, lengths: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Cut `units`, sorted by length, where dividing saves more padding than another pass costs.

    Dynamic programming over the distinct lengths: the cost of a group is its padded size plus `CALL_TOKENS`.
    """
    steps = -(-lengths[units] // LENGTH_STEP) * LENGTH_STEP
    ends = np.append(np.flatnonzero(np.diff(steps)) + 1, len(units))
    starts = np.concatenate([[0], ends[:-1]])
    rows = np.concatenate([[0], np.cumsum(sizes[units])])
    best: list[float] = [0.0]
    came_from: list[int] = [0]
    for j, end in enumerate(ends):
        costs = [best[i] + (rows[end] - rows[starts[i]]) * steps[end - 1] + CALL_TOKENS for i in range(j + 1)]
        came_from.append(int(np.argmin(costs)))
        best.append(costs[came_from[-1]])
    groups = []
    j = len(ends)
    while j > 0:
        groups.append(units[starts[came_from[j]] : ends[j - 1]])
        j = came_from[j]
    return groups[::-1]
