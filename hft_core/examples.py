"""A task's rows, tokenised once: what the plan draws from and the batches are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from hft_core.head import Draw, Head, Targets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hft_core.rows import Rows

ENCODE_ROWS = 1000
"""Rows given to the tokenizer at a time."""


@dataclass(frozen=True)
class Drawn:
    """Some examples, ready to be padded."""

    sequences: list[list[int]]
    extra: dict[str, list[list[int]]]
    targets: Targets


class Examples:
    """The tokenised rows of one task's split."""

    def __init__(self, table: Dataset, extra: Sequence[str], targets: Sequence[str]) -> None:
        self._table = table
        self._extra = tuple(extra)
        self._targets = tuple(targets)
        self.lengths = np.asarray(table["length"], dtype=np.int32)
        """`[examples]`: tokens of each."""
        self.rows = np.asarray(table["row"], dtype=np.int64)
        """`[examples]`: the row that each was made from."""

    def __len__(self) -> int:
        return len(self._table)

    def first(self, count: int) -> Examples:
        """The first `count` examples."""
        return Examples(self._table.select(range(min(count, len(self)))), self._extra, self._targets)

    def draw(self, ids: Sequence[int], head: Head, draw: Draw) -> Drawn:
        """The examples `ids` as `head` shows them to the trunk in the use that `draw` names."""
        columns = self._table[list(ids)]
        targets = {name: columns[name] for name in self._targets}
        sequences, collated = head.collate(columns["sequence"], targets, ids, draw)
        return Drawn(sequences, {name: columns[name] for name in self._extra}, collated)

    def references(self, ids: Sequence[int], head: Head) -> Sequence[Any]:
        """What the predictions of the examples `ids` are compared with."""
        columns = self._table[list(ids)]
        return head.references({name: columns[name] for name in self._targets})


def encode(rows: Rows, head: Head, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
    """Tokenise all `rows` with `head`; examples keep the order of their rows."""
    parts: list[Dataset] = []
    extra: dict[str, Any] = {}
    targets: dict[str, Any] = {}
    for indices, columns in rows.batches(ENCODE_ROWS):
        encoded = head.encode(columns, tokenizer, max_length)
        extra, targets = encoded.extra, encoded.targets
        parts.append(
            Dataset.from_dict(
                {
                    "sequence": encoded.sequences,
                    "row": [indices[i] for i in encoded.rows],
                    "length": [len(sequence) for sequence in encoded.sequences],
                    **extra,
                    **targets,
                }
            )
        )
    return Examples(concatenate_datasets(parts), tuple(extra), tuple(targets))
