"""Read single cells of Arrow tables, write tables to memory-mapped files, and hash their columns.

`datasets` decodes a batch with its features, and pyarrow's `take` joins all chunks first: for a batch of 32 short rows,
either costs more than the rest of its preparation.
"""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PART_BYTES = 16 << 20
"""Tables are collected in memory up to this size, and then written together."""

CellReader = Callable[[int], Any]
"""Reads a cell of one chunk, by its index, as a Python value."""


class Column:
    """A column of consecutive tables."""

    def __init__(self, tables: Sequence[pa.Table], name: str) -> None:
        """Read the column `name`; it is None in the rows of a table that lacks it."""
        chunks = [chunk for table in tables for chunk in _chunks(table, name)]
        self._readers = [_cell_reader(chunk) for chunk in chunks]
        self._starts = np.cumsum([0, *map(len, chunks)])[:-1]

    def cells(self, ids: np.ndarray) -> list[Any]:
        """Return the cells of the rows `ids`, counted over all tables."""
        if len(self._readers) == 1:
            read = self._readers[0]
            return [read(i) for i in ids.tolist()]
        chunks = np.searchsorted(self._starts, ids, side="right") - 1
        indices = ids - self._starts[chunks]
        readers = self._readers
        return [readers[chunk](i) for chunk, i in zip(chunks.tolist(), indices.tolist(), strict=True)]


def numeric_column(tables: Sequence[pa.Table], name: str, dtype: Any) -> np.ndarray:
    """Return a column of numbers of all tables as one array `[rows]`."""
    parts = [np.asarray(chunk, dtype=dtype) for table in tables for chunk in table[name].chunks]
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _chunks(table: pa.Table, name: str) -> list[pa.Array]:
    if name not in table.column_names:
        return [pa.nulls(table.num_rows)]
    return [chunk for chunk in table[name].chunks if len(chunk)]


def _cell_reader(chunk: pa.Array) -> CellReader:
    """Read numbers and lists of numbers through numpy, without copying the chunk, and anything else through Arrow."""
    if _is_numeric(chunk):
        read: CellReader = chunk.to_numpy().item
        return read
    if pa.types.is_list(chunk.type) and not chunk.null_count and _is_numeric(chunk.values):
        offsets, values = chunk.offsets.to_numpy(), chunk.values.to_numpy()
        return lambda i: values[offsets[i] : offsets[i + 1]].tolist()
    return lambda i: chunk[i].as_py()


def _is_numeric(array: pa.Array) -> bool:
    return bool(pa.types.is_integer(array.type) or pa.types.is_floating(array.type)) and not array.null_count


class PartWriter:
    """Collects tables with the same columns and writes them as a few tables to memory-mapped files."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where the files are kept; without it, they are unnamed and vanish with the process."""
        self.all_in_folder = folder is not None
        """Whether everything so far was written into the folder; False after the disk was full."""
        self._folder = folder
        self._pending: list[pa.Table] = []
        self._written: list[pa.Table] = []
        self._bytes = 0

    def add(self, table: pa.Table) -> None:
        """Add a table."""
        self._pending.append(table)
        self._bytes += table.nbytes
        if self._bytes >= PART_BYTES:
            self._write_pending()

    def finish(self) -> list[pa.Table]:
        """Return all tables. The rest still in memory stays there unless the files are kept."""
        if self._pending and self.all_in_folder:
            self._write_pending()
        return [*self._written, *([_concatenate(self._pending)] if self._pending else [])]

    def _write_pending(self) -> None:
        table = _concatenate(self._pending)
        mapped = self._write_to_folder(table) if self.all_in_folder else None
        self.all_in_folder = mapped is not None
        self._written.append(move_to_disk(table) if mapped is None else mapped)
        self._pending, self._bytes = [], 0

    def _write_to_folder(self, table: pa.Table) -> pa.Table | None:
        """Write the table to a file of the folder and map it; None if it cannot be written."""
        assert self._folder is not None
        path = self._folder / f"part-{len(self._written):05d}.arrow"
        try:
            with path.open("xb") as file:
                _write(table, file)
            return open_table(path)
        except OSError:
            return None


def move_to_disk(table: pa.Table) -> pa.Table:
    """Write the table to an unnamed file and map it; return it as it is if the disk has no room."""
    try:
        with tempfile.TemporaryFile() as file:
            _write(table, file)
            file.flush()
            return _map(file)
    except OSError:
        return table


def open_table(path: Path) -> pa.Table:
    """Map the table in a file. Raises `OSError`, or `pa.ArrowInvalid` for a file without one."""
    with path.open("rb") as file:
        return _map(file)


def _concatenate(tables: list[pa.Table]) -> pa.Table:
    """Return one table of one chunk. A column that is empty or missing in some tables gets the others' type."""
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def _write(table: pa.Table, file: IO[bytes]) -> None:
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _map(file: IO[bytes]) -> pa.Table:
    """Map the file: pages are read on access, into the system's cache rather than the process."""
    buffer = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return pa.ipc.open_file(pa.BufferReader(buffer)).read_all()


def digest(tables: Iterable[pa.Table], names: Sequence[str]) -> bytes:
    """Hash the columns `names` of consecutive tables, independently of how the rows are divided among them."""
    values, lengths = ({name: hashlib.blake2b() for name in names} for _ in range(2))
    for table in tables:
        for name in names:
            column = table[name] if name in table.column_names else pa.chunked_array([pa.nulls(table.num_rows)])
            for chunk in column.chunks:
                _update(chunk, values[name], lengths[name])
    parts = [(name, values[name].hexdigest(), lengths[name].hexdigest()) for name in names]
    return hashlib.blake2b(repr(parts).encode()).digest()


def _update(chunk: pa.Array, values: hashlib.blake2b, lengths: hashlib.blake2b) -> None:
    """Add a chunk to the hashes of its values and of its lists' lengths."""
    while pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type):
        lengths.update(np.asarray(chunk.value_lengths().fill_null(-1), dtype=np.int64).tobytes())
        chunk = chunk.flatten()
    if pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type):
        lengths.update(np.asarray(pc.binary_length(chunk).fill_null(-1), dtype=np.int64).tobytes())
        values.update(_text_bytes(chunk.cast(pa.large_string())))
    elif chunk.null_count == 0 and (pa.types.is_integer(chunk.type) or pa.types.is_boolean(chunk.type)):
        values.update(np.asarray(chunk, dtype=np.int64).tobytes())
    elif chunk.null_count == 0 and pa.types.is_floating(chunk.type):
        values.update(np.asarray(chunk, dtype=np.float64).tobytes())
    else:
        values.update("".join(f"{value!r}," for value in chunk.to_pylist()).encode())


def _text_bytes(texts: pa.LargeStringArray) -> memoryview:
    """Return the characters of all texts as they lie in memory, those of nulls left out."""
    filled = pc.fill_null(texts, "")
    _, offsets, content = filled.buffers()
    if content is None or not len(filled):
        return memoryview(b"")
    start, end = np.frombuffer(offsets, np.int64)[[filled.offset, filled.offset + len(filled)]].tolist()
    return memoryview(content)[start:end]
