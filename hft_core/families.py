"""Families: tasks whose examples have the same inputs one by one, so that one encoding of a text serves all of them.

Four label columns of one file are a family. Tasks of which one has more rows than the other, or the same rows in
another order, are none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from hft_core.examples import Examples
    from hft_core.head import Head


def families(examples: Mapping[str, Examples], heads: Mapping[str, Head]) -> dict[str, str]:
    """For each task, the first one with the same inputs and units: itself where there is none before it, or where its
    head shows the trunk other sequences than were encoded."""
    found: dict[str, str] = {}
    alike: dict[bytes, list[str]] = {}
    for task, part in examples.items():
        found[task] = task
        if heads[task].changes_sequences:
            continue
        earlier = alike.setdefault(_outline(part), [])  # only these are worth a look at every token
        found[task] = next((other for other in earlier if examples[other].inputs == part.inputs), task)
        if found[task] == task:
            earlier.append(task)
    return found


def _outline(examples: Examples) -> bytes:
    """A digest of the lengths and sizes of the units."""
    return hashlib.blake2b(examples.lengths.tobytes() + examples.sizes.tobytes()).digest()


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
