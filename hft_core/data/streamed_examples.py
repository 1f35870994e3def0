"""Tokenize the rows of a stream as training comes to them: the examples of a step are found by their numbers in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hft_core.data.corpus import Block, BlockStart, Corpus
from hft_core.data.examples import Examples, table_of
from hft_core.errors import PluginError, UsageError
from hft_core.head import Head

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PORTION_ROWS = 1000
"""Rows of a block that are tokenized together, and whose examples are shuffled together, at most."""
PORTION_CHARACTERS = 4_000_000
"""A portion ends with the row that reaches so many characters."""


@dataclass(frozen=True)
class StreamPlace:
    """Where a portion begins: from here on, a stream is read without what is before it."""

    start: BlockStart = field(default_factory=BlockStart)
    """Of its block."""
    portion: int = 0
    """In the block, 0 for the first."""
    first: int = 0
    """The number of its first example."""
    files: int = 0
    """How many files the corpus has, whose order follows from their number; 0 at the beginning."""

    def to_json(self) -> dict[str, Any]:
        """Convert to values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StreamPlace:
        """Convert back what `to_json` returned."""
        return cls(**{**value, "start": BlockStart(**value["start"])})


@dataclass(frozen=True)
class _Portion:
    place: StreamPlace
    table: pa.Table

    @property
    def end(self) -> int:
        return self.place.first + len(self.table)

    def slice(self, start: int, stop: int) -> pa.Table:
        """Return the examples with numbers from `start` to `stop` that are in it."""
        low, high = max(start, self.place.first), min(stop, self.end)
        return self.table.slice(low - self.place.first, max(high - low, 0))


class StreamWindow(Examples):
    """Consecutive examples of a stream, each a unit, under their numbers in the stream."""

    def __init__(self, tables: Sequence[pa.Table], first: int) -> None:
        super().__init__(tables)
        self._offset = first

    def lengths_of(self, units: np.ndarray) -> np.ndarray:
        return super().lengths_of(units - self._offset)

    def sizes_of(self, units: np.ndarray) -> np.ndarray:
        return super().sizes_of(units - self._offset)

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        return super().rows_of(ids - self._offset)

    def of_units(self, units: np.ndarray) -> np.ndarray:
        return super().of_units(units - self._offset) + self._offset

    def _table_rows(self, ids: np.ndarray) -> np.ndarray:
        return ids - self._offset


class StreamedExamples:
    """The examples of a corpus, numbered from 0, in an order that follows from a seed and the files alone.

    They are asked for in ascending order, a step at a time, and no others are kept. A long text's chunks are separate
    examples, shuffled with those of the other rows of a portion.
    """

    def __init__(
        self, corpus: Corpus, head: Head, tokenizer: PreTrainedTokenizerBase, max_length: int, *, seed: Sequence[int]
    ) -> None:
        self._corpus, self._head, self._tokenizer, self._max_length = corpus, head, tokenizer, max_length
        self._columns = [column.name for column in head.columns()]
        self._seed = tuple(seed)
        self.go_to(StreamPlace())

    def go_to(self, place: StreamPlace) -> None:
        """Continue with the portion at `place`. Raises `UsageError` where the corpus had another number of files."""
        count = len(self._corpus.files)
        if place.files not in (0, count):
            raise UsageError(
                f"task '{self._head.task}': its stream has {count} files and had {place.files} when the checkpoint was "
                "saved: the order of all rows is another one; resume with the same files, or start a new run"
            )
        self._begin, self._dropped = place, place
        self._left = self._portions(place)
        self._kept: list[_Portion] = []

    def window(self, start: int, stop: int) -> Examples:
        """Return the examples `start` to `stop` (exclusive). Those before `start` are kept no longer.

        Raises `DataError` for a row that cannot be used, and for a file that is gone or changed.
        """
        if start < (self._kept[0].place if self._kept else self._begin).first:
            self.go_to(StreamPlace())
        if gone := [portion for portion in self._kept if portion.end <= start]:
            self._dropped = gone[-1].place
        self._kept = [portion for portion in self._kept if portion.end > start]
        while not self._kept or self._kept[-1].end < stop:
            portion = next(self._left)
            if portion.end > start:
                self._kept.append(portion)
        return StreamWindow([part for p in self._kept if len(part := p.slice(start, stop))], start)

    def place(self, number: int) -> StreamPlace:
        """Return the place from which the example `number`, the first that is not used yet, is found again."""
        found = [portion.place for portion in self._kept if portion.place.first <= number]
        if found:
            return found[-1]
        return self._dropped if self._dropped.first <= number else self._begin

    def _portions(self, place: StreamPlace) -> Iterator[_Portion]:
        """Yield the portions from `place` on, without end."""
        first, skipped = place.first, place.portion
        for block in self._corpus.blocks((*self._seed, 0), place.start):
            for number, indices in enumerate(_cut(block, self._columns)):
                if number < skipped:
                    continue
                table = self._tokenized(block, indices, number)
                yield _Portion(StreamPlace(block.start, number, first, len(self._corpus.files)), table)
                first += table.num_rows
            skipped = 0

    def _tokenized(self, block: Block, indices: range, number: int) -> pa.Table:
        """Return the shuffled examples of some rows of a block."""
        rows = block.rows.select(indices)
        values = {name: rows[name] for name in self._columns}
        encoded = self._head.encode(values, self._tokenizer, self._max_length)
        if encoded.units and len(set(encoded.units)) < len(encoded.sequences):
            raise PluginError(f"task '{self._head.task}': a head that groups its examples cannot learn from a stream")
        table = table_of(encoded, rows.origins()[1].tolist())
        order = np.random.default_rng((*self._seed, 1, block.start.block, number)).permutation(table.num_rows)
        return table.take(pa.array(order)).combine_chunks()


def _cut(block: Block, columns: Sequence[str]) -> Iterator[range]:
    """Yield the rows of each portion of a block."""
    cells = [block.rows[name] for name in columns]
    start, characters = 0, 0
    for i, row in enumerate(zip(*cells, strict=True)):
        characters += sum(len(cell) for cell in row if isinstance(cell, str))
        if i + 1 - start == PORTION_ROWS or characters >= PORTION_CHARACTERS or i + 1 == len(block.rows):
            yield range(start, i + 1)
            start, characters = i + 1, 0
