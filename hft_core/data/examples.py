"""A task's rows, tokenised once: what the plan draws from and the batches are made of."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hft_core.data import token_cache
from hft_core.data.columns import Column, digest, numbers
from hft_core.head import OWN_LENGTH, Draw, Encoded, Head, Targets
from hft_core.runtime import signals

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hft_core.data.rows import Rows
    from hft_core.data.token_cache import TokenStore

ENCODE_ROWS = 1000
"""Rows given to the tokenizer at a time."""
EXTRA, TARGET = "extra.", "target."
"""What the names of the columns of further inputs and of targets begin with."""
FINGERPRINT_EXAMPLES = 500
"""Examples whose tokens a fingerprint looks at; of all it looks at the lengths."""


@dataclass(frozen=True)
class Drawn:
    """Some examples, ready to be padded."""

    sequences: list[list[int]]
    extra: dict[str, list[list[int]]]
    targets: Targets

    def has_inputs_of(self, other: Drawn) -> bool:
        """Whether the trunk is given the same."""
        return self.sequences == other.sequences and self.extra == other.extra


class Examples:
    """The tokenised rows of one task's split: sequences, the examples, of which one or more make a unit."""

    def __init__(self, tables: Sequence[pa.Table], ids: np.ndarray | None = None) -> None:
        """`tables`, one after another: an example a row, with its `_sequence`, `_row`, `_length` and whether it is the
        `_first` of a unit; `ids`: those that are meant, in their order; all of them when left out."""
        self._tables, self._ids = tuple(tables), ids
        names = list(dict.fromkeys(name for table in tables for name in table.column_names))
        self._sequences = Column(tables, "_sequence")
        self._extra = {name.removeprefix(EXTRA): Column(tables, name) for name in names if name.startswith(EXTRA)}
        self._targets = {name.removeprefix(TARGET): Column(tables, name) for name in names if name.startswith(TARGET)}
        self.own_length_inputs = tuple(name for name in self._extra if name.startswith(OWN_LENGTH))
        self.rows = self._numbers("_row", np.int32)
        """`[examples]`: the row that each was made from."""
        self._starts = np.flatnonzero(self._numbers("_first", np.bool_)).astype(np.int32)
        self.lengths = np.maximum.reduceat(self._numbers("_length", np.int32), self._starts)
        """`[units]`: tokens of the longest example of each."""
        self.sizes = np.diff(self._starts, append=np.int32(len(self)))
        """`[units]`: examples of each."""

    def _numbers(self, name: str, dtype: Any) -> np.ndarray:
        found = numbers(self._tables, name, dtype)
        return found if self._ids is None else found[self._ids]

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.rows)

    def of_units(self, units: np.ndarray) -> np.ndarray:
        """The numbers of the examples of some units, in the order of the units."""
        sizes = self.sizes[units]
        before = np.repeat(np.cumsum(sizes) - sizes, sizes)
        found: np.ndarray = np.repeat(self._starts[units], sizes) + np.arange(int(sizes.sum())) - before
        return found

    def fingerprint(self) -> int:
        """A number that stands for the examples: equal for equal ones, and hardly ever for others."""
        sizes, rows = self.sizes.astype(np.int64), self.rows.astype(np.int64)
        digest = zlib.crc32(self.lengths.tobytes() + sizes.tobytes() + rows.tobytes())
        some = np.unique(np.linspace(0, len(self) - 1, FINGERPRINT_EXAMPLES, dtype=np.int64))
        for sequence in self._sequences.cells(self._places(some)):
            digest = zlib.crc32(np.asarray(sequence, dtype=np.int64).tobytes(), digest)
        return digest

    @cached_property
    def inputs(self) -> bytes:
        """A digest of everything that the trunk is given of the examples, and of what their units are."""
        tables = self._tables
        if self._ids is not None:
            tables = (pa.concat_tables(tables, promote_options="permissive").take(self._ids),)
        return digest(tables, ("_first", "_sequence", *(EXTRA + name for name in sorted(self._extra))))

    def of(self, units: np.ndarray) -> Examples:
        """Some units as examples of their own."""
        return Examples(self._tables, self._places(self.of_units(units)))

    def draw(self, ids: Sequence[int], head: Head, draw: Draw) -> Drawn:
        """The examples `ids` as `head` shows them to the trunk in the use that `draw` names."""
        places = self._places(np.asarray(ids, np.int64))
        targets = {name: column.cells(places) for name, column in self._targets.items()}
        sequences, collated = head.collate(self._sequences.cells(places), targets, ids, draw)
        return Drawn(sequences, {name: column.cells(places) for name, column in self._extra.items()}, collated)

    def references(self, ids: Sequence[int], head: Head) -> Sequence[Any]:
        """What the predictions of the examples `ids` are compared with."""
        places = self._places(np.asarray(ids, np.int64))
        return head.references({name: column.cells(places) for name, column in self._targets.items()})

    def _places(self, ids: np.ndarray) -> np.ndarray:
        """Where the examples `ids` are in the tables."""
        return ids if self._ids is None else self._ids[ids]


def encode(
    rows: Rows,
    head: Head,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    with_targets: bool = True,
    store: TokenStore | None = None,
) -> Examples:
    """Tokenise all `rows` with `head`, or take what `store` has of them; examples keep the order of their rows, which
    is that of their groups where the head has any. Without `with_targets`, target columns are not looked at, whatever
    they hold."""
    columns_read = [column for column in head.columns() if with_targets or not column.target]
    read = [column.name for column in columns_read if rows.has(column.name)]
    group = head.group_column if head.group_column and rows.has(head.group_column) else ""

    def made() -> Iterator[pa.Table]:
        for indices, columns in _groups_whole(rows, group, read) if group else rows.batches(ENCODE_ROWS, read):
            signals.check()
            yield _table(head.encode(columns, tokenizer, max_length), indices)

    if store is None:
        return Examples(token_cache.tokenised(made))
    return Examples(store.tokenised(rows, [*read, group] if group else read, head, max_length, made))


def _table(encoded: Encoded, indices: Sequence[int]) -> pa.Table:
    """The examples of some rows, whose numbers are `indices`."""
    columns = {
        "_sequence": pa.array(encoded.sequences, pa.list_(pa.int32())),
        "_row": pa.array([indices[i] for i in encoded.rows], pa.int32()),
        "_length": pa.array([len(sequence) for sequence in encoded.sequences], pa.int32()),
        "_first": pa.array(_first_of_unit(encoded), pa.bool_()),
    }
    columns |= {EXTRA + name: _narrow(pa.array(values)) for name, values in encoded.extra.items()}
    columns |= {TARGET + name: pa.array(values) for name, values in encoded.targets.items()}
    return pa.table(columns)


def _narrow(values: pa.Array) -> pa.Array:
    """Lists of ids in half the bytes."""
    return values.cast(pa.list_(pa.int32())) if values.type == pa.list_(pa.int64()) else values


def _first_of_unit(encoded: Encoded) -> list[bool]:
    """For each example, whether its unit begins with it."""
    units = encoded.units or range(len(encoded.sequences))
    return [i == 0 or units[i] != units[i - 1] for i in range(len(units))]


def _groups_whole(rows: Rows, column: str, read: Sequence[str]) -> Iterator[tuple[list[int], dict[str, list[Any]]]]:
    """About `ENCODE_ROWS` rows at a time, those with equal values of `column` one after another and never apart."""
    numbers: dict[Any, int] = {}
    group = np.asarray([numbers.setdefault(value, len(numbers)) for value in rows[column]])
    order = np.argsort(group, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(group[order])) + 1, len(order))
    start = 0
    for i, end in enumerate(ends):
        if end - start >= ENCODE_ROWS or i == len(ends) - 1:
            part = rows.select(order[start:end])
            yield order[start:end].tolist(), {name: part[name] for name in read}
            start = end
