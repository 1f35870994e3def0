"""Batches are halved until they fit into memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from hft_core.batching.collate import Batch
from hft_core.errors import RunError
from hft_core.training.oom_retry import fill_within_memory


class Memory:
    """Batches of numbers of units, of which so many fit at once."""

    def __init__(self, fits: int, error: Exception | None = None) -> None:
        self.fits, self.error = fits, error or torch.OutOfMemoryError("out of memory")
        self.rebatched: list[int] = []

    def fill(self, batches: list[Any]) -> int:
        if max(batch.units for batch in batches) > self.fits:
            raise self.error
        return sum(batch.units for batch in batches)

    def rebatch(self, units: int) -> list[Batch]:
        self.rebatched.append(units)
        return batches_of(*[units] * (8 // units))

    def run(self, *units: int, world_size: int = 1) -> tuple[int, list[Batch], int]:
        rows = np.array([10, 11, 12])
        train = {"topic": SimpleNamespace(rows_of=lambda ids: rows[ids])}
        return fill_within_memory(
            self.fill,
            self.rebatch,
            batches_of(*units),
            max(units),
            position="stage 's', step 3",
            world_size=world_size,
            train=lambda: cast("Any", train),
        )


def batches_of(*units: int) -> list[Batch]:
    segment = SimpleNamespace(task="topic", examples=np.array([2]))
    return cast(
        "list[Batch]",
        [SimpleNamespace(units=n, inputs={"input_ids": torch.zeros(1, n)}, segments=[segment]) for n in units],
    )


def test_what_fits_is_left_as_it_is() -> None:
    memory = Memory(fits=8)
    result, _, units = memory.run(8)
    assert (result, units, memory.rebatched) == (8, 8, [])


def test_units_are_halved_until_they_fit() -> None:
    memory = Memory(fits=3)
    result, batches, units = memory.run(8)
    assert (result, units, memory.rebatched, len(batches)) == (8, 2, [4, 2], 4)


def test_other_errors_are_raised() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        Memory(fits=0, error=RuntimeError("a bug")).run(8)


def test_a_row_that_is_too_large_is_named() -> None:
    message = r"stage 's', step 3: out of memory with a single row, number 12 of task 'topic': lower its max_length"
    with pytest.raises(RunError, match=message):
        Memory(fits=0).run(2, 1)


def test_several_processes_do_not_divide() -> None:
    memory = Memory(fits=1)
    with pytest.raises(RunError, match="with several processes, batches are not divided"):
        memory.run(8, world_size=2)
    assert memory.rebatched == []
