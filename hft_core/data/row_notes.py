"""Report rows that training does not learn as they stand: what their heads noted, and texts without tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from hft_core.errors import DataError

if TYPE_CHECKING:
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


def warnings(task: str, splits: Mapping[str, Rows], notes: Mapping[str, Mapping[str, Sequence[int]]]) -> list[str]:
    """Return one line for each note, with the number of its rows by split and the place of the first one.

    `notes`: by split, the rows of each note (`Examples.notes`).

    Raises `DataError` when no training row has a token that the tokenizer knows.
    """
    places: dict[str, str] = {}
    counts: dict[str, list[str]] = {}
    for split, rows in splits.items():
        for note, noted in notes[split].items():
            first = rows.where(noted[0])
            if split == "train" and note == NO_TOKEN and len(noted) == len(rows):
                raise DataError(
                    f"task '{task}' ({split}): {first}: {note}, and so in every row; expected texts in a language and "
                    "script of the backbone"
                )
            places.setdefault(note, first)
            counts.setdefault(note, []).append(f"{len(noted)} of {len(rows)} {split} rows")
    return [f"task '{task}': {note} ({', '.join(counts[note])}; first: {first})" for note, first in places.items()]
