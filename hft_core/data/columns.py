"""Arrow tables of which single cells are read: a batch of rows costs microseconds, wherever in the tables they are.

`datasets` decodes a batch with its features and pyarrow's `take` joins all chunks first: either costs more for a batch
of 32 short rows than the rest of its preparation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

Reader = Callable[[int], Any]
"""The cell at a place of one chunk, as a Python value."""


class Column:
    """A column of tables that follow one another."""

    def __init__(self, tables: Sequence[pa.Table], name: str) -> None:
        """A table that lacks the column holds None there."""
        chunks = [chunk for table in tables for chunk in _chunks(table, name)]
        self._readers = [_reader(chunk) for chunk in chunks]
        self._starts = np.cumsum([0, *map(len, chunks)])[:-1]

    def cells(self, ids: np.ndarray) -> list[Any]:
        """The cells at `ids`, counted over all tables."""
        if len(self._readers) == 1:
            read = self._readers[0]
            return [read(i) for i in ids.tolist()]
        parts = np.searchsorted(self._starts, ids, side="right") - 1
        places = ids - self._starts[parts]
        readers = self._readers
        return [readers[part](place) for part, place in zip(parts.tolist(), places.tolist(), strict=True)]


def numbers(tables: Sequence[pa.Table], name: str, dtype: Any) -> np.ndarray:
    """A column of numbers as one array."""
    parts = [np.asarray(chunk, dtype=dtype) for table in tables for chunk in table[name].chunks]
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _chunks(table: pa.Table, name: str) -> list[pa.Array]:
    if name not in table.column_names:
        return [pa.nulls(table.num_rows)]
    return [chunk for chunk in table[name].chunks if len(chunk)]


def _reader(chunk: pa.Array) -> Reader:
    """Numbers and lists of numbers are read through numpy, without a copy of the chunk; anything else by Arrow."""
    if _is_plain(chunk):
        read: Reader = chunk.to_numpy().item
        return read
    if pa.types.is_list(chunk.type) and not chunk.null_count and _is_plain(chunk.values):
        offsets, values = chunk.offsets.to_numpy(), chunk.values.to_numpy()
        return lambda i: values[offsets[i] : offsets[i + 1]].tolist()
    return lambda i: chunk[i].as_py()


def _is_plain(array: pa.Array) -> bool:
    return bool(pa.types.is_integer(array.type) or pa.types.is_floating(array.type)) and not array.null_count


def digest(tables: Iterable[pa.Table], names: Sequence[str]) -> bytes:
    """A digest of the columns `names` of tables that follow one another, however they are divided."""
    values, lengths = ({name: hashlib.blake2b() for name in names} for _ in range(2))
    for table in tables:
        for name in names:
            column = table[name] if name in table.column_names else pa.chunked_array([pa.nulls(table.num_rows)])
            for chunk in column.chunks:
                _add(chunk, values[name], lengths[name])
    parts = [(name, values[name].hexdigest(), lengths[name].hexdigest()) for name in names]
    return hashlib.blake2b(repr(parts).encode()).digest()


def _add(chunk: pa.Array, values: hashlib.blake2b, lengths: hashlib.blake2b) -> None:
    """Add a chunk to the digests of its values and of its lists' lengths."""
    while pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type):
        lengths.update(np.asarray(chunk.value_lengths().fill_null(-1), dtype=np.int64).tobytes())
        chunk = chunk.flatten()
    if chunk.null_count or not (pa.types.is_integer(chunk.type) or pa.types.is_boolean(chunk.type)):
        values.update("".join(f"{value!r}," for value in chunk.to_pylist()).encode())
        return
    values.update(np.asarray(chunk, dtype=np.int64).tobytes())
