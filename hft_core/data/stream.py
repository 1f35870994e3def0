"""Read the rows of a data file a few at a time, in memory that does not grow with the file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from hft_core.data import loading
from hft_core.data.cells import expected, problem
from hft_core.data.readers import SUFFIXES, delimited, json_lines, parquet, txt
from hft_core.data.readers.lines import numbered_lines, open_bytes
from hft_core.data.readers.records import AnyRecords
from hft_core.data.row_checks import need_column
from hft_core.data.rows import Rows, Source, from_columns
from hft_core.errors import DataError
from hft_core.file_guard import open_regular
from hft_core.runtime.files import file_hash

if TYPE_CHECKING:
    from hft_core.head import Column

CHUNK_ROWS = 2000
"""Rows of the file that are in memory at a time, and predicted together."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used."""

    number: int
    """In the file, as its format counts (lines, rows)."""
    reason: str
    """Begins with the row's place."""
    record: dict[str, Any] | None
    """The row by column; None where it cannot be read."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file."""

    rows: Rows | None
    """Those that can be read; None without any."""
    count: int
    """Rows of the file, bad ones included."""
    bad: list[BadRow] = field(default_factory=list)


@dataclass(frozen=True)
class RowStream:
    """The rows of one file, which is read anew by each call of `chunks`."""

    path: str
    digest: str
    """Identifies the file's content."""
    total: int
    """Rows in the file, bad ones included."""
    _read: Callable[[int, int], Iterator[Chunk]]

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Yield the rows `start` to `stop` (exclusive; the end when left out). Raises `DataError` where nothing can be
        read any more."""
        return self._read(start, self.total if stop is None else stop)


def open_stream(path: str, *, task: str) -> RowStream:
    """Open a data file of any format. csv, tsv, jsonl, txt and parquet are read a few rows at a time, others at once.

    Raises `DataError` for a file that cannot be read or has no rows.
    """
    suffix = Path(path.lower().removesuffix(".gz")).suffix
    format = SUFFIXES.get(suffix, "") if Path(path).is_file() else ""
    if format in _LINES:
        opened = _of_lines(path, format)
    elif format == "parquet":
        opened = _of_parquet(path)
    else:
        return _of_rows(path, loading.read([path], None, "line", task=task))
    if not opened.total:
        loading.read([path], None, "line", task=task)  # says what is wrong with it
    return opened


@dataclass(frozen=True)
class _LineFormat:
    records: Callable[[str], AnyRecords]
    unit: Any
    count: Callable[[Iterable[str]], int]


def _not_blank(lines: Iterable[str]) -> int:
    return sum(1 for line in lines if line.strip())


_LINES = {
    "jsonl": _LineFormat(json_lines.records, "line", _not_blank),
    "txt": _LineFormat(txt.lines, "line", _not_blank),
    "csv": _LineFormat(delimited.csv_records, "row", lambda lines: delimited.count(lines, ",")),
    "tsv": _LineFormat(delimited.tsv_records, "row", lambda lines: delimited.count(lines, "\t")),
}


def _of_lines(path: str, format: str) -> RowStream:
    form, digest = _LINES[format], hashlib.sha256()

    def hashed(lines: Iterable[tuple[int, str]]) -> Iterator[str]:
        for _, line in lines:
            digest.update(line.encode())
            yield line

    with open_bytes(path) as file:
        lines = hashed(numbered_lines(path, file))
        total = form.count(lines)
        for _ in lines:  # behind what is not well-formed
            pass

    def read(start: int, stop: int) -> Iterator[Chunk]:
        every = form.records(path)
        records = islice(every, start, stop)
        while part := list(islice(records, CHUNK_ROWS)):
            yield _chunk(part, Source(path, form.unit))
        if stop >= total:
            next(every, None)  # the end of a csv file, where it is checked as a whole

    return RowStream(path, digest.hexdigest(), total, read)


def _chunk(part: Sequence[tuple[int, dict[str, Any] | DataError]], source: Source) -> Chunk:
    good = [(number, record) for number, record in part if not isinstance(record, DataError)]
    bad = [BadRow(number, str(error), None) for number, error in part if isinstance(error, DataError)]
    if not good:
        return Chunk(None, len(part), bad)
    names = dict.fromkeys(name for _, record in good for name in record)
    columns = {name: [record.get(name) for _, record in good] for name in names}
    numbers = np.array([number for number, _ in good], np.int32)
    return Chunk(from_columns(columns, [source], np.zeros(len(good), np.int32), numbers), len(part), bad)


def _of_parquet(path: str) -> RowStream:
    try:
        with open_regular(path) as file:
            total = pq.ParquetFile(file).metadata.num_rows
        digest = file_hash(Path(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {' '.join(str(error).split())}") from None

    def read(start: int, stop: int) -> Iterator[Chunk]:
        for rows in parquet.parts(path, start, stop, CHUNK_ROWS):
            yield Chunk(rows, len(rows))

    return RowStream(path, digest, total, read)


def _of_rows(path: str, rows: Rows) -> RowStream:
    digest = hashlib.sha256()
    for _, columns in rows.batches(CHUNK_ROWS):
        digest.update(repr(columns).encode(errors="replace"))

    def read(start: int, stop: int) -> Iterator[Chunk]:
        for first in range(start, stop, CHUNK_ROWS):
            part = rows.select(range(first, min(first + CHUNK_ROWS, stop)))
            yield Chunk(part, len(part))

    return RowStream(path, digest.hexdigest(), len(rows), read)


def without_bad(chunk: Chunk, columns: Sequence[Column], *, task: str, first: bool) -> Chunk:
    """Return the chunk with the rows whose cells do not fit `columns` among the bad ones; targets are not looked at.

    `first`: it is the file's first one, which must have the columns. Raises `DataError` where it has not.
    """
    rows = chunk.rows
    if rows is None:
        return chunk
    wanted = [column for column in columns if not column.target]
    if first:
        for column in wanted:
            need_column(rows, column.name, f"{expected(column)} in each row", task=task, of_recipe=False)
    found = _problems(rows, wanted)
    if not found:
        return chunk
    numbers = rows.origins()[1]
    records = _records(rows.select(list(found)))
    bad = [
        BadRow(int(numbers[i]), f"{rows.where(i)}: {text}", record)
        for (i, text), record in zip(found.items(), records, strict=True)
    ]
    kept = [i for i in range(len(rows)) if i not in found]
    both = sorted([*chunk.bad, *bad], key=lambda row: row.number)
    return Chunk(rows.select(kept) if kept else None, chunk.count, both)


def _problems(rows: Rows, wanted: Sequence[Column]) -> dict[int, str]:
    """Return what is wrong with the rows that do not fit, by index."""
    found: dict[int, str] = {}
    for column in wanted:
        values = rows[column.name] if rows.has(column.name) else [None] * len(rows)
        for i, value in enumerate(values):
            if i not in found and (text := problem(value, column)):
                found[i] = f"column {column.name!r}: {text}"
    return dict(sorted(found.items()))


def _records(rows: Rows) -> Iterator[dict[str, Any]]:
    for _, columns in rows.batches(CHUNK_ROWS):
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))
