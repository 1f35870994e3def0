"""Tokenize a task's rows once into the examples that batches are drawn from."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hft_core.data import row_notes, token_cache
from hft_core.data.arrow import Column, digest, numeric_column
from hft_core.data.cells import group_key
from hft_core.data.special_tokens import SpecialTokens
from hft_core.head import OWN_LENGTH, Draw, Encoded, Head, Targets
from hft_core.runtime import signals

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hft_core.data.rows import Rows
    from hft_core.data.token_cache import TokenCache

ENCODE_ROWS = 1000
"""Rows given to the tokenizer at a time."""
EXTRA, TARGET = "extra.", "target."
"""Prefixes of the columns of further inputs and of targets."""
NOTE = "_note"
"""The column of `Encoded.notes`: those of an example's row, at the row's first example."""


@dataclass(frozen=True)
class SampledExamples:
    """Some examples, ready to be padded."""

    sequences: list[list[int]]
    extra: dict[str, list[list[int]]]
    targets: Targets

    def same_inputs(self, other: SampledExamples) -> bool:
        """Return whether the trunk gets the same inputs."""
        return self.sequences == other.sequences and self.extra == other.extra


class Examples:
    """The tokenized rows of one task's split.

    An example is one sequence. One or more consecutive examples form a unit (the choices of a question, say).
    """

    def __init__(self, tables: Sequence[pa.Table], ids: np.ndarray | None = None) -> None:
        """Read examples from consecutive tables.

        A table row is an example, with the columns `_sequence`, `_row`, `_length` and `_first` (whether a unit starts
        with it). `ids` selects and orders the examples; by default, all.
        """
        self._tables, self._ids = tuple(tables), ids
        names = list(dict.fromkeys(name for table in tables for name in table.column_names))
        self._sequences = Column(tables, "_sequence")
        self._extra = {name.removeprefix(EXTRA): Column(tables, name) for name in names if name.startswith(EXTRA)}
        self._targets = {name.removeprefix(TARGET): Column(tables, name) for name in names if name.startswith(TARGET)}
        self.own_length_inputs = tuple(name for name in self._extra if name.startswith(OWN_LENGTH))
        self.rows = self._numbers("_row", np.int32)
        """`[examples]`: the row of each example."""
        self._starts = np.flatnonzero(self._numbers("_first", np.bool_)).astype(np.int32)
        self.lengths = np.maximum.reduceat(self._numbers("_length", np.int32), self._starts)
        """`[units]`: tokens of the longest example of each unit."""
        self.sizes = np.diff(self._starts, append=np.int32(len(self)))
        """`[units]`: number of examples of each unit."""

    def _numbers(self, name: str, dtype: Any) -> np.ndarray:
        column = numeric_column(self._tables, name, dtype)
        return column if self._ids is None else column[self._ids]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.rows)

    def lengths_of(self, units: np.ndarray) -> np.ndarray:
        """Return the tokens of the longest example of some units."""
        lengths: np.ndarray = self.lengths[units]
        return lengths

    def sizes_of(self, units: np.ndarray) -> np.ndarray:
        """Return the number of examples of some units."""
        sizes: np.ndarray = self.sizes[units]
        return sizes

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the row of some examples."""
        rows: np.ndarray = self.rows[ids]
        return rows

    def of_units(self, units: np.ndarray) -> np.ndarray:
        """Return the indices of the examples of some units, in the order of the units."""
        sizes = self.sizes[units]
        before = np.repeat(np.cumsum(sizes) - sizes, sizes)
        indices: np.ndarray = np.repeat(self._starts[units], sizes) + np.arange(int(sizes.sum())) - before
        return indices

    @cached_property
    def content_digest(self) -> bytes:
        """A BLAKE2b hash of everything in the examples: rows, units, tokens, further inputs and targets."""
        columns = [*(EXTRA + name for name in sorted(self._extra)), *(TARGET + name for name in sorted(self._targets))]
        return digest(self._selected(), ("_first", "_row", "_sequence", *columns))

    @cached_property
    def input_digest(self) -> bytes:
        """A BLAKE2b hash of all trunk inputs and of the units; equal for tasks with the same inputs."""
        return digest(self._selected(), ("_first", "_sequence", *(EXTRA + name for name in sorted(self._extra))))

    def _selected(self) -> tuple[pa.Table, ...]:
        """Return the tables, as one of the selected rows where some were selected."""
        if self._ids is None:
            return self._tables
        return (pa.concat_tables(self._tables, promote_options="permissive").take(self._ids),)

    def of(self, units: np.ndarray) -> Examples:
        """Return the examples of some units."""
        return Examples(self._tables, self._table_rows(self.of_units(units)))

    def draw(self, ids: Sequence[int], head: Head, draw: Draw) -> SampledExamples:
        """Return the examples `ids`, collated by `head` with the random numbers of `draw`."""
        table_rows = self._table_rows(np.asarray(ids, np.int64))
        targets = {name: column.cells(table_rows) for name, column in self._targets.items()}
        sequences, collated = head.collate(self._sequences.cells(table_rows), targets, ids, draw)
        return SampledExamples(
            sequences, {name: column.cells(table_rows) for name, column in self._extra.items()}, collated
        )

    def answered(self, head: Head) -> np.ndarray:
        """Return the indices of the examples that have a prediction: all, or the first of each unit
        (`Head.predicts_units`)."""
        return self._starts.astype(np.int64) if head.predicts_units else np.arange(len(self))

    def references(self, ids: Sequence[int] | np.ndarray, head: Head) -> Sequence[Any]:
        """Return what the predictions of the examples `ids` are compared with."""
        table_rows = self._table_rows(np.asarray(ids, np.int64))
        return head.references({name: column.cells(table_rows) for name, column in self._targets.items()})

    def tokens_of_rows(self) -> dict[int, list[list[int]]]:
        """Return the sequences of each row."""
        found: dict[int, list[list[int]]] = {}
        sequences = self._sequences.cells(self._table_rows(np.arange(len(self))))
        for row, sequence in zip(self.rows.tolist(), sequences, strict=True):
            found.setdefault(row, []).append(sequence)
        return found

    def notes(self) -> dict[str, list[int]]:
        """Return what was noted when the rows were tokenized, with the numbers of the rows that each note is about."""
        found: dict[str, list[int]] = {}
        for table in self._tables:
            if NOTE in table.column_names:
                noted = table.select([NOTE, "_row"]).filter(table[NOTE].is_valid())
                for notes, row in zip(noted[NOTE].to_pylist(), noted["_row"].to_pylist(), strict=True):
                    for note in notes.split("\n"):
                        found.setdefault(note, []).append(row)
        return found

    def _table_rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the table rows of the examples `ids`."""
        return ids if self._ids is None else self._ids[ids]


def encode(
    rows: Rows,
    head: Head,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    with_targets: bool = True,
    cache: TokenCache | None = None,
) -> Examples:
    """Tokenize all `rows` with `head`, or read them from `cache`.

    Examples keep the order of their rows; if the head has a group column, rows are ordered by group first. Without
    `with_targets`, target columns are not read.
    """
    columns = [column for column in head.columns() if with_targets or not column.target]
    names = [column.name for column in columns if rows.has(column.name)]
    group = head.group_column if head.group_column and rows.has(head.group_column) else ""
    special = frozenset(getattr(tokenizer, "all_special_ids", ()))
    written = SpecialTokens(tokenizer)

    def tokenize() -> Iterator[pa.Table]:
        batches = _batches_by_group(rows, group, names) if group else rows.batches(ENCODE_ROWS, names)
        for indices, values in batches:
            signals.check()
            encoded = head.encode(values, tokenizer, max_length)
            for row in row_notes.without_tokens(encoded, special):
                encoded.add_note(row, row_notes.NO_TOKEN)
            for row, note in row_notes.of_texts(values, columns, written):
                encoded.add_note(row, note)
            yield table_of(encoded, indices)

    if cache is None:
        return Examples(token_cache.without_cache(tokenize))
    return Examples(cache.get(rows, [*names, group] if group else names, head, max_length, tokenize))


def in_memory(parts: Sequence[tuple[Encoded, Sequence[int]]]) -> Examples:
    """Return rows that are already tokenized as examples; beside each part, the numbers of its rows."""
    return Examples([table_of(encoded, numbers) for encoded, numbers in parts])


def table_of(encoded: Encoded, indices: Sequence[int]) -> pa.Table:
    """Return the examples of the rows `indices` as a table."""
    columns = {
        "_sequence": pa.array(encoded.sequences, pa.list_(pa.int32())),
        "_row": pa.array([indices[i] for i in encoded.rows], pa.int32()),
        "_length": pa.array([len(sequence) for sequence in encoded.sequences], pa.int32()),
        "_first": pa.array(_first_of_unit(encoded), pa.bool_()),
    }
    columns |= {EXTRA + name: _narrow(pa.array(values)) for name, values in encoded.extra.items()}
    columns |= {TARGET + name: pa.array(values) for name, values in encoded.targets.items()}
    if encoded.notes:
        left = dict(encoded.notes)
        columns[NOTE] = pa.array([left.pop(row, None) for row in encoded.rows], pa.string())
    return pa.table(columns)


def _narrow(values: pa.Array) -> pa.Array:
    """Cast lists of int64 to int32."""
    return values.cast(pa.list_(pa.int32())) if values.type == pa.list_(pa.int64()) else values


def _first_of_unit(encoded: Encoded) -> list[bool]:
    """Return for each example whether it is the first of its unit."""
    units = encoded.units or range(len(encoded.sequences))
    return [i == 0 or units[i] != units[i - 1] for i in range(len(units))]


def _batches_by_group(
    rows: Rows, column: str, names: Sequence[str]
) -> Iterator[tuple[list[int], dict[str, list[Any]]]]:
    """Yield about `ENCODE_ROWS` rows at a time; rows with equal values of `column` are consecutive in one batch."""
    numbers: dict[Hashable, int] = {}
    group = np.asarray([numbers.setdefault(group_key(value), len(numbers)) for value in rows[column]])
    order = np.argsort(group, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(group[order])) + 1, len(order))
    start = 0
    for i, end in enumerate(ends):
        if end - start >= ENCODE_ROWS or i == len(ends) - 1:
            part = rows.select(order[start:end])
            yield order[start:end].tolist(), {name: part[name] for name in names}
            start = end
