"""Report rows that training does not learn as they stand: what their heads noted, and texts without tokens."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from hft_core.errors import DataError

if TYPE_CHECKING:
    from hft_core.data.examples import Examples
    from hft_core.data.rows import Rows
    from hft_core.head import Encoded

NO_TOKEN = "the tokenizer of the backbone leaves no token of the text that it knows"


def without_tokens(encoded: Encoded, special: Collection[int]) -> set[int]:
    """Return the rows (indices in the batch) of which all tokens are special ones, the unknown token included."""
    with_text = {
        row
        for row, sequence in zip(encoded.rows, encoded.sequences, strict=True)
        if any(token not in special for token in sequence)
    }
    return set(encoded.rows) - with_text


def warnings(task: str, split: str, rows: Rows, examples: Examples) -> list[str]:
    """Return one line for each note, with the number of its rows and the place of the first one.

    Raises `DataError` when no training row has a token that the tokenizer knows.
    """
    found = []
    for note, noted in examples.notes().items():
        if split == "train" and note == NO_TOKEN and len(noted) == len(rows):
            raise DataError(
                f"task '{task}' ({split}): {rows.where(noted[0])}: {note}, and so in every row; expected texts in a "
                "language and script of the backbone"
            )
        count = f"{len(noted)} of {len(rows)} rows, first {rows.where(noted[0])}"
        found.append(f"task '{task}' ({split}): {note} ({count})")
    return found
