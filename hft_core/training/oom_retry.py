"""Halve the batches of a step until they fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from hft_core.batching.batch import Batch
from hft_core.data.examples import Examples
from hft_core.device.out_of_memory import is_out_of_memory
from hft_core.errors import RunError

Result = TypeVar("Result")


def fill_within_memory(
    fill: Callable[[list[Batch]], Result],
    rebatch: Callable[[int], list[Batch]],
    batches: list[Batch],
    units: int,
    *,
    position: str,
    world_size: int,
    train: Callable[[], Mapping[str, Examples]],
) -> tuple[Result, list[Batch], int]:
    """Call `fill(batches)`; while it runs out of memory, halve `units` and try again with `rebatch(units)`.

    `units`: how many a batch has at most. `position`: stage and step, for messages. `train`: returns the examples of
    the step, to name the row that is too long. Returns the result, the batches that it was computed from, and the
    units in one of them.

    Raises `RunError` when a single unit does not fit, or with several processes: the others would wait for this one.
    """
    while True:
        try:
            return fill(batches), batches, units
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if world_size > 1:
                raise RunError(
                    f"{position}: out of memory; with several processes, batches are not divided: lower "
                    "max_rows_per_batch"
                ) from error
            if units == 1:
                row = _longest_row(batches, train())
                raise RunError(f"{position}: out of memory with a single row, {row}: lower its max_length") from error
        # Outside of `except`, where the error's traceback would keep the tensors of the failed pass alive.
        units //= 2
        batches = rebatch(units)


def _longest_row(batches: list[Batch], train: Mapping[str, Examples]) -> str:
    longest = max(batches, key=lambda batch: batch.inputs["input_ids"].numel())
    (segment, *_) = longest.segments
    row = int(train[segment.task].rows_of(segment.examples[:1])[0])
    return f"number {row} of task '{segment.task}'"
