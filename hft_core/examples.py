"""A task's rows, tokenised once: what the plan draws from and the batches are made of."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from hft_core import interruption, turns
from hft_core.head import OWN_LENGTH, Draw, Encoded, Head, Targets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hft_core.rows import Rows

ENCODE_ROWS = 1000
"""Rows given to the tokenizer at a time."""
FINGERPRINT_EXAMPLES = 500
"""Examples whose tokens a fingerprint looks at; of all it looks at the lengths."""


@dataclass(frozen=True)
class Drawn:
    """Some examples, ready to be padded."""

    sequences: list[list[int]]
    extra: dict[str, list[list[int]]]
    targets: Targets


class Examples:
    """The tokenised rows of one task's split: sequences, the examples, of which one or more make a unit."""

    def __init__(self, table: Dataset, extra: Sequence[str], targets: Sequence[str]) -> None:
        self._table = table
        self._extra = tuple(extra)
        self._targets = tuple(targets)
        self.own_length_inputs = tuple(name for name in extra if name.startswith(OWN_LENGTH))
        self._starts = np.flatnonzero(np.asarray(table["_first"], dtype=bool))
        self.rows = np.asarray(table["_row"], dtype=np.int64)
        """`[examples]`: the row that each was made from."""
        self.lengths = np.maximum.reduceat(np.asarray(table["_length"], dtype=np.int32), self._starts)
        """`[units]`: tokens of the longest example of each."""
        self.sizes = np.diff(self._starts, append=len(table))
        """`[units]`: examples of each."""

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._table)

    def of_units(self, units: np.ndarray) -> np.ndarray:
        """The numbers of the examples of some units, in the order of the units."""
        sizes = self.sizes[units]
        before = np.repeat(np.cumsum(sizes) - sizes, sizes)
        numbers: np.ndarray = np.repeat(self._starts[units], sizes) + np.arange(int(sizes.sum())) - before
        return numbers

    def fingerprint(self) -> int:
        """A number that stands for the examples: equal for equal ones, and hardly ever for others."""
        digest = zlib.crc32(self.lengths.tobytes() + self.sizes.tobytes() + self.rows.tobytes())
        some = np.unique(np.linspace(0, len(self) - 1, FINGERPRINT_EXAMPLES, dtype=np.int64))
        for sequence in self._table.select(some)["_sequence"]:
            digest = zlib.crc32(np.asarray(sequence, dtype=np.int64).tobytes(), digest)
        return digest

    def of(self, units: np.ndarray) -> Examples:
        """Some units as examples of their own."""
        return Examples(self._table.select(self.of_units(units)), self._extra, self._targets)

    def draw(self, ids: Sequence[int], head: Head, draw: Draw) -> Drawn:
        """The examples `ids` as `head` shows them to the trunk in the use that `draw` names."""
        columns = self._table[list(ids)]
        targets = {name: columns[name] for name in self._targets}
        sequences, collated = head.collate(columns["_sequence"], targets, ids, draw)
        return Drawn(sequences, {name: columns[name] for name in self._extra}, collated)

    def references(self, ids: Sequence[int], head: Head) -> Sequence[Any]:
        """What the predictions of the examples `ids` are compared with."""
        columns = self._table[list(ids)]
        return head.references({name: columns[name] for name in self._targets})


def encode(
    rows: Rows, head: Head, tokenizer: PreTrainedTokenizerBase, max_length: int, *, with_targets: bool = True
) -> Examples:
    """Tokenise all `rows` with `head`; examples keep the order of their rows, which is that of their groups where the
    head has any. Without `with_targets`, target columns are not looked at, whatever they hold."""
    parts: list[Dataset] = []
    extra: dict[str, Any] = {}
    targets: dict[str, Any] = {}
    columns_read = [column for column in head.columns() if with_targets or not column.target]
    read = [column.name for column in columns_read if rows.has(column.name)]
    group = head.group_column
    batches = _groups_whole(rows, group, read) if group and rows.has(group) else rows.batches(ENCODE_ROWS, read)
    for indices, columns in batches:
        interruption.check()
        turns.offer()
        encoded = head.encode(columns, tokenizer, max_length)
        extra, targets = encoded.extra, encoded.targets
        parts.append(
            Dataset.from_dict(
                {
                    "_sequence": encoded.sequences,
                    "_row": [indices[i] for i in encoded.rows],
                    "_length": [len(sequence) for sequence in encoded.sequences],
                    "_first": _first_of_unit(encoded),
                    **extra,
                    **targets,
                }
            )
        )
    return Examples(concatenate_datasets(parts), tuple(extra), tuple(targets))


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
