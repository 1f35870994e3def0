"""Check that a stage says what does not follow from the rows of a stream, whose number is not known."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from hft_core.recipe.fields import KeyPathError
from hft_core.recipe.stage import Sampling, Stage


def check(index: int, stage: Stage, *, streamed: Sequence[str], replayed: Collection[str]) -> None:
    """Raise `KeyPathError` if stage `index` has no `max_steps`, or no shares that are independent of counts.

    `streamed`: the stage's tasks with a stream; `replayed`: those whose share of its rows is fixed.
    """
    path = ("stages", index)
    for key in ("passes", "max_epochs"):
        for task in streamed:
            if task in getattr(stage.sampling, key):
                raise KeyPathError(
                    (*path, "sampling", key, task),
                    f"the rows of the task '{task}' are a stream, and are not counted, nor are passes over them; "
                    "'max_steps' and the task's share say how many it gets",
                )
    name = next((task for task in streamed if task not in replayed), None)
    if name is None:
        return
    uncounted = f"the rows of the task '{name}' are a stream, and are not counted"
    if stage.max_steps is None:
        keys = ("num_train_epochs",) if stage.num_train_epochs is not None else ()
        raise KeyPathError((*path, *keys), f"{uncounted}: give 'max_steps', not epochs")
    if stage.early_stopping_patience is not None and stage.eval_steps is None:
        why = f"{uncounted}, so that they have no epochs to evaluate after: give 'eval_steps'"
        raise KeyPathError((*path, "early_stopping_patience"), why)
    alone = all(task == name or task in replayed for task in stage.tasks)
    if not alone and not _shares_without_counts(stage.sampling):
        raise KeyPathError(
            (*path, "sampling"),
            f"{uncounted}, so that shares in proportion to rows are not known: expected 'uniform' (with 'weights'), "
            "'round-robin' or 'batch_size' here, or 'replay' in that task",
        )


def _shares_without_counts(sampling: Sampling) -> bool:
    """Return whether the shares of the tasks do not depend on their numbers of rows."""
    uniform = sampling.temperature == math.inf and sampling.temperature_end in (None, math.inf)
    return bool(sampling.batch_size) or sampling.round_robin or uniform
