"""Cached hidden states of rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hft_core.acceleration.activation_cache import bytes_of
from hft_core.batching.batch import Batch
from hft_core.model.activation_store import Row, Store, inputs_of, rows_of

HIDDEN = 3


def row(*ids: int, **extra: Sequence[int]) -> Row:
    return Row(np.array(ids, np.int32), {name: np.array(values, np.int32) for name, values in extra.items()})


ROWS = [row(5, 6), row(5, 6, token_type_ids=(0, 1)), row(7, 8, 9), row(5)]


def stored(folder: Path, rows: Sequence[Row], dtype: torch.dtype = torch.float32) -> tuple[Store, list[torch.Tensor]]:
    """A store of random hidden states, and these by row."""
    hidden = [torch.randn(len(row.ids), HIDDEN).to(dtype) for row in rows]
    table = torch.cat([torch.zeros(1, HIDDEN, dtype=dtype), *hidden])
    path = folder / "hidden.bin"
    path.write_bytes(table.view(torch.uint8).numpy().tobytes())
    store = Store(rows, hidden[0])
    store.open(path)
    return store, hidden


def test_rows_are_what_a_batch_was_made_of() -> None:
    inputs = inputs_of(ROWS, pad=4)
    assert inputs["input_ids"].tolist() == [[5, 6, 4], [5, 6, 4], [7, 8, 9], [5, 4, 4]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert [each.key for each in rows_of(inputs)] == [each.key for each in ROWS]


def test_rows_differ_by_their_tokens_and_by_their_other_inputs() -> None:
    others = [row(5, 6, token_type_ids=(1, 0)), row(5, 6, kind=(0, 1)), row(6, 5), row(5, 6, 0)]
    assert len({each.key for each in [*ROWS, *others]}) == len(ROWS) + len(others)


def test_a_row_is_the_same_in_every_company() -> None:
    keys = [each.key for each in ROWS]
    for i, key in enumerate(keys):
        assert [each.key for each in rows_of(inputs_of([ROWS[i]], pad=0))] == [key]
    assert [each.key for each in rows_of(inputs_of(ROWS[::-1], pad=9))] == keys[::-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_gets_what_is_stored_of_its_rows_with_zeros_at_padding(tmp_path: Path, dtype: torch.dtype) -> None:
    store, hidden = stored(tmp_path, ROWS, dtype)
    batch = store.put_into(Batch(inputs_of([ROWS[3], ROWS[2], ROWS[0]], pad=0), ()))
    assert batch.cached is not None
    assert batch.cached.hidden.dtype == dtype
    assert batch.cached.missing.tolist() == []
    wanted = torch.zeros(3, 3, HIDDEN, dtype=dtype)
    wanted[0, :1], wanted[1], wanted[2, :2] = hidden[3], hidden[2], hidden[0]
    assert torch.equal(batch.cached.hidden, wanted)


def test_rows_that_are_not_stored_are_named(tmp_path: Path) -> None:
    store, hidden = stored(tmp_path, ROWS[:2])
    batch = store.put_into(Batch(inputs_of([ROWS[2], ROWS[1], row(1)], pad=0), ()))
    assert batch.cached is not None
    assert batch.cached.missing.tolist() == [0, 2]
    assert torch.equal(batch.cached.hidden[1, :2], hidden[1])
    assert not batch.cached.hidden[[0, 2]].any()
    alone = Batch(inputs_of([ROWS[2]], pad=0), ())
    assert store.put_into(alone) is alone


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hidden.bin"
    path.write_bytes(bytes(4 * HIDDEN))
    with pytest.raises(OSError, match="12 bytes, expected 36"):
        Store(ROWS[:1], torch.zeros(2, HIDDEN)).open(path)


def test_a_closed_store_leaves_batches_as_they_are(tmp_path: Path) -> None:
    store, _ = stored(tmp_path, ROWS)
    batch = Batch(inputs_of(ROWS, pad=0), ())
    assert store.put_into(batch) is not batch
    store.close()
    assert store.put_into(batch) is batch


@pytest.mark.parametrize(("text", "size"), [("auto", 4e9), ("20GB", 20e9), ("1.5 MB", 1.5e6), ("2 TB", 2e12)])
def test_sizes_are_read_as_they_are_written(text: Any, size: float) -> None:
    assert bytes_of(text) == size
