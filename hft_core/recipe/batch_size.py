"""Resolve how many rows a step has: `train_batch_size`, or what Hugging Face's two keys come to on some processes.

`train_batch_size` counts the rows of a step over all processes. As in transformers, it is
`per_device_train_batch_size` × processes × `gradient_accumulation_steps`; any two of the three keys give the third.
"""

from __future__ import annotations

from dataclasses import replace

from hft_core.errors import RecipeError
from hft_core.recipe.fields import KeyPathError
from hft_core.recipe.resolve import Resolved
from hft_core.recipe.stage import DEFAULT_BATCH_SIZE, Stage


def with_batch_sizes(resolved: Resolved, processes: int) -> Resolved:
    """Return the recipe with the rows of a step of each stage as they are on so many processes.

    In the result each stage that says anything of it has `train_batch_size` and `max_rows_per_batch`, which say the
    same on any number of processes, instead of the two keys that depend on it; for the others the data decide
    (`hft_core.recipe.budget`). Raises `RecipeError` where they contradict each other.
    """
    stages = []
    for index, each in enumerate(resolved.stages):
        try:
            stage = resolve_batch_size(each.stage, processes) if _is_stated(each.stage) else each.stage
            stages.append(replace(each, stage=stage))
        except KeyPathError as error:
            raise RecipeError(f"{resolved.where(('stages', index, *error.path))}: {error}") from None
    recipe = resolved.recipe.model_copy(update={"stages": tuple(each.stage for each in stages)})
    return replace(resolved, recipe=recipe, stages=tuple(stages))


def resolve_batch_size(stage: Stage, processes: int) -> Stage:
    """Return the stage with `train_batch_size` and `max_rows_per_batch` as numbers. Raises `KeyPathError`."""
    rows = _of_the_tasks(stage) if stage.sampling.batch_size else _of_the_keys(stage, processes)
    limits = (stage.max_rows_per_batch, _per_device(stage, processes, rows))
    given = [limit for limit in limits if limit is not None]
    written = {
        "train_batch_size": rows,
        "max_rows_per_batch": min(given, default=DEFAULT_BATCH_SIZE if stage.sampling.batch_size else rows),
        "per_device_train_batch_size": None,
        "gradient_accumulation_steps": None,
    }
    return stage.model_copy(update=written)


def _is_stated(stage: Stage) -> bool:
    """Return whether a key says how many rows a step has."""
    keys = (stage.train_batch_size, stage.per_device_train_batch_size, stage.gradient_accumulation_steps)
    return bool(stage.sampling.batch_size) or any(key is not None for key in keys)


def rows_per_step(stage: Stage) -> int:
    """Return the rows of a step of a stage whose batch size has been resolved, over all processes."""
    assert stage.train_batch_size is not None, "with_budgets comes before"
    return stage.train_batch_size


def rows_per_pass(stage: Stage) -> int:
    """Return how many rows of a resolved stage one process computes at once, at most."""
    assert stage.max_rows_per_batch is not None, "with_budgets comes before"
    return stage.max_rows_per_batch


def _of_the_tasks(stage: Stage) -> int:
    rows = sum(stage.sampling.batch_size.values())
    if stage.train_batch_size not in (None, rows):
        numbers = " + ".join(str(number) for number in stage.sampling.batch_size.values())
        raise KeyPathError(
            ("train_batch_size",),
            f"{stage.train_batch_size} rows a step contradict sampling.batch_size: {numbers} = {rows}; remove one",
        )
    return rows


def _of_the_keys(stage: Stage, processes: int) -> int:
    total, per_device, passes = (
        stage.train_batch_size,
        stage.per_device_train_batch_size,
        stage.gradient_accumulation_steps,
    )
    if total is None:
        return DEFAULT_BATCH_SIZE if per_device is None and passes is None else _product(stage, processes)
    written = {"per_device_train_batch_size": per_device, "gradient_accumulation_steps": passes}
    given = {key: number for key, number in written.items() if number is not None}
    product = processes * (per_device or 1) * (passes or 1)
    agrees = total == product if len(given) == 2 else total % product == 0
    if agrees or not given:
        return total
    shown = " × ".join([*(f"{key} {number}" for key, number in given.items()), _processes(processes)])
    is_not = "is not" if len(given) == 2 else "is not a multiple of"
    raise KeyPathError(
        ("train_batch_size",),
        f"{total} rows a step {is_not} {shown} = {product}; change one of "
        "them ('max_rows_per_batch' limits the memory of a pass without changing the rows of a step)",
    )


def _product(stage: Stage, processes: int) -> int:
    per_device = stage.per_device_train_batch_size or DEFAULT_BATCH_SIZE
    return per_device * processes * (stage.gradient_accumulation_steps or 1)


def _per_device(stage: Stage, processes: int, rows: int) -> int | None:
    """Return the rows that a device computes at once where the recipe says so, and None where it does not."""
    if stage.per_device_train_batch_size is not None:
        return stage.per_device_train_batch_size
    if stage.gradient_accumulation_steps is None or stage.sampling.batch_size:
        return None
    return max(1, rows // (processes * stage.gradient_accumulation_steps))


def _processes(number: int) -> str:
    return f"{number} process{'es' * (number > 1)}"
