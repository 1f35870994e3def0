"""Read Parquet files."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hft_core.data.readers.records import NumberedRecords
from hft_core.data.rows import Rows, Source, dataset_of, refuse_odd_names
from hft_core.errors import DataError
from hft_core.file_guard import open_regular

BATCH_ROWS = 1000
"""Rows that `records` holds at a time."""


def read(path: str) -> Rows:
    """Read a Parquet file. Raises `DataError`."""
    source = Source(path, "row")
    with _opened(path) as file:
        table = _without_dictionaries(pq.read_table(file))
        refuse_odd_names(table.column_names, source)
        dataset = dataset_of(table)
    if len(dataset) == 0 or not dataset.column_names:
        raise DataError(f"{path}: no data in it, expected at least one row")
    return Rows(dataset, [source], np.zeros(len(dataset), np.int32), np.arange(1, len(dataset) + 1))


def parts(path: str, start: int, stop: int, size: int) -> Iterator[Rows]:
    """Yield the rows `start` to `stop` (exclusive), at most `size` at a time. Raises `DataError`."""
    source, position = Source(path, "row"), 0
    with _opened(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(size):
            first, last = max(start - position, 0), min(stop - position, len(batch))
            if first < last:
                table = _without_dictionaries(pa.Table.from_batches([batch.slice(first, last - first)]))
                refuse_odd_names(table.column_names, source)
                numbers = np.arange(position + first + 1, position + last + 1)
                yield Rows(dataset_of(table), [source], np.zeros(len(numbers), np.int32), numbers)
            position += len(batch)
            if position >= stop:
                return


def records(path: str, columns: Collection[str], after: int = 0) -> NumberedRecords:
    """Yield the rows behind row `after`, with those of `columns` that the file has. Raises `DataError`."""
    with _opened(path) as opened:
        file = pq.ParquetFile(opened)
        groups, position = _groups_from(file, after)
        wanted = [name for name in file.schema_arrow.names if name in columns]
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=wanted):
            for number, record in enumerate(batch.to_pylist(), start=position + 1):
                if number > after:
                    yield number, record
            position += len(batch)


def columns_of(path: str) -> list[str]:
    """Return the names of the columns. Raises `DataError`."""
    with _opened(path) as file:
        return list(pq.ParquetFile(file).schema_arrow.names)


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Open a file. Raises `DataError` for whatever is wrong while it is open."""
    try:
        with open_regular(path) as file:
            yield file
    except (OSError, ValueError, TypeError, LookupError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as parquet: {' '.join(str(error).split())}") from None


def _groups_from(file: pq.ParquetFile, after: int) -> tuple[list[int], int]:
    """Return the row groups that have rows behind row `after`, and the number of rows before them."""
    position = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if position + count > after:
            return list(range(group, file.num_row_groups)), position
        position += count
    return [], position


def _without_dictionaries(table: pa.Table) -> pa.Table:
    """Remove dictionary encoding (pandas' categories), which `datasets` does not accept."""
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table
