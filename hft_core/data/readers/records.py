"""Pack the records of a file into rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from hft_core.data.arrow import PART_BYTES
from hft_core.data.rows import Rows, Source, from_columns, join, move_to_disk
from hft_core.errors import DataError

CHUNK = 20_000
"""Records held as Python objects before they are packed; bounds the memory that reading takes."""

Record = dict[str, Any]
NumberedRecords = Iterator[tuple[int, Record]]
"""Records with their number in the file (from 1)."""
AnyRecords = Iterator[tuple[int, Record | DataError]]
"""The same, with what is wrong in the place of a record that cannot be read."""


def only_good(records: AnyRecords) -> NumberedRecords:
    """Yield the records. Raises the `DataError` of the first one that cannot be read."""
    for number, record in records:
        if isinstance(record, DataError):
            raise record
        yield number, record


def pack(records: NumberedRecords, source: Source) -> Rows:
    """Pack the records into rows, on disk where there are many. Raises `DataError` if there is none."""
    on_disk: list[Rows] = []
    in_memory: list[Rows] = []
    while chunk := list(islice(records, CHUNK)):
        names = dict.fromkeys(name for _, record in chunk for name in record)
        columns = {name: [record.get(name) for _, record in chunk] for name in names}
        numbers = np.array([number for number, _ in chunk], np.int32)
        in_memory.append(from_columns(columns, [source], np.zeros(len(chunk), np.int32), numbers))
        if sum(part.dataset.data.nbytes for part in in_memory) >= PART_BYTES:
            on_disk.append(move_to_disk(join(in_memory)))
            in_memory = []
    if not on_disk and not in_memory:
        raise DataError(f"{source.name}: no data in it, expected at least one {source.unit}")
    return join([*on_disk, *in_memory])
