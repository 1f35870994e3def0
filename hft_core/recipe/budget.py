"""Choose how long a stage trains, in steps of how many rows, where its recipe leaves that out.

Few rows need more passes and smaller steps: 300 rows are 29 steps in three passes of 32 rows, too few for any learning
rate. The figures behind the numbers are in docs/explanation/defaults.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hft_core.recipe.batch_size import resolve_batch_size
from hft_core.recipe.resolve import Resolved
from hft_core.recipe.schema import Recipe
from hft_core.recipe.stage import DEFAULT_BATCH_SIZE, DEFAULT_EPOCHS, Stage

MIN_STEPS = 100
"""Steps that a stage takes at least, unless that needs more than `MAX_EPOCHS` epochs."""
MIN_BATCH_SIZE = 8
"""Rows of a step, at least."""
MAX_EPOCHS = 20
"""Epochs of a stage on few rows, at most."""


def with_budgets(resolved: Resolved, units: Sequence[int]) -> Resolved:
    """Return the recipe with the epochs and batch sizes of all stages written out.

    `units`: examples (or groups of examples) in an epoch of each stage.
    """
    return _with_stages(
        resolved, [budgeted(each.stage, count) for each, count in zip(resolved.stages, units, strict=True)]
    )


def budgeted(stage: Stage, units: int) -> Stage:
    """Return the stage with what it leaves out of `num_train_epochs` and `train_batch_size`; `max_steps` replaces
    epochs."""
    rows = stage.train_batch_size or default_batch_size(stage, units)
    written: dict[str, Any] = {"train_batch_size": rows}
    if stage.num_train_epochs is None and stage.max_steps is None:
        written["num_train_epochs"] = default_epochs(units, rows)
    return resolve_batch_size(stage.model_copy(update=written), processes=1)


def default_batch_size(stage: Stage, units: int) -> int:
    """Return the largest power of two from `MIN_BATCH_SIZE` to `DEFAULT_BATCH_SIZE` with which the stage takes
    `MIN_STEPS` steps in its epochs, or the smallest of them."""
    if stage.max_steps is not None:
        return DEFAULT_BATCH_SIZE
    rows, seen = DEFAULT_BATCH_SIZE, units * (stage.num_train_epochs or DEFAULT_EPOCHS)
    while rows > MIN_BATCH_SIZE and seen < MIN_STEPS * rows:
        rows //= 2
    return rows


def default_epochs(units: int, rows: int) -> float:
    """Return `DEFAULT_EPOCHS`, or as many as `MIN_STEPS` steps of `rows` rows take, up to `MAX_EPOCHS`."""
    return float(min(max(DEFAULT_EPOCHS, math.ceil(MIN_STEPS * rows / units)), MAX_EPOCHS))


def with_budgets_of(resolved: Resolved, recorded: Recipe) -> Resolved:
    """Return the recipe with what it leaves out of its budgets as in `recorded`, the recipe of a run that has begun."""
    if len(recorded.stages) != len(resolved.stages):
        return resolved
    return _with_stages(
        resolved,
        [_budgeted_as(each.stage, then) for each, then in zip(resolved.stages, recorded.stages, strict=True)],
    )


def _with_stages(resolved: Resolved, stages: Sequence[Stage]) -> Resolved:
    recipe = resolved.recipe.model_copy(update={"stages": tuple(stages)})
    each = tuple(replace(was, stage=stage) for was, stage in zip(resolved.stages, stages, strict=True))
    return replace(resolved, recipe=recipe, stages=each)


def _budgeted_as(stage: Stage, then: Stage) -> Stage:
    written: dict[str, Any] = {}
    if stage.num_train_epochs is None and stage.max_steps is None:
        written["num_train_epochs"] = then.num_train_epochs
    if stage.train_batch_size is not None or then.train_batch_size is None:
        return stage.model_copy(update=written)
    written["train_batch_size"] = then.train_batch_size
    return resolve_batch_size(stage.model_copy(update=written), processes=1)
