"""Align tasks with shared inputs, so that one step takes the same units of each and one encoding serves all of them.

All functions work on columns: the index of a task among the tasks of a stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def alignable(
    tasks: Sequence[str], same_inputs_as: Mapping[str, str], units: np.ndarray, budgets: np.ndarray
) -> list[str]:
    """Find for each task the first one with the same inputs, budget and number of units in each step.

    `same_inputs_as`: see `hft_core.batching.shared_inputs`. `units`: `[steps, tasks]`, expected units of each step; a
    task with less than one in any step is not aligned, since some steps have none of it.
    """
    leaders = list(tasks)
    for column, task in enumerate(tasks):
        for earlier, other in enumerate(tasks[:column]):
            same_inputs = same_inputs_as.get(task, task) == same_inputs_as.get(other, other)
            same_budget = budgets[earlier] == budgets[column]
            if same_inputs and same_budget and _equal_from_one(units[:, earlier], units[:, column]):
                leaders[column] = leaders[earlier]
                break
    return leaders


def aligned_columns(leaders: Sequence[str], starts: np.ndarray) -> list[int]:
    """Find for each column the first one that shares its `alignable` leader and its starts in all steps, itself if
    there is none: these columns take the same units. `starts`: `[steps, tasks]`, units taken before each step."""
    columns = list(range(len(leaders)))
    for column, leader in enumerate(leaders):
        for earlier in range(column):
            if leaders[earlier] == leader and np.array_equal(starts[:, earlier], starts[:, column]):
                columns[column] = columns[earlier]
                break
    return columns


def aligned_groups(aligned: Sequence[int], factors: np.ndarray) -> list[np.ndarray]:
    """Group the `aligned_columns` that have the same factor `[tasks]` on their proportions, where it is not 0; without
    groups of one."""
    groups: dict[tuple[int, float], list[int]] = {}
    for column, first in enumerate(aligned):
        if factors[column]:
            groups.setdefault((first, float(factors[column])), []).append(column)
    return [np.array(columns) for columns in groups.values() if len(columns) > 1]


def _equal_from_one(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other) and bool(one.min() >= 1 - 1e-9)
