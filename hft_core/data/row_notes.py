"""Report rows that training does not learn as they stand: what their readers and heads noted, texts without tokens, and
texts that are damaged or read as something else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hft_core.data.cells import is_missing_word
from hft_core.data.damaged_text import damage
from hft_core.errors import DataError

if TYPE_CHECKING:
    from hft_core.data.rows import Rows
    from hft_core.data.special_tokens import SpecialTokens
    from hft_core.head import Column, Encoded

NO_TOKEN = "the tokenizer of the backbone leaves no token of the text that it knows"


def without_tokens(encoded: Encoded, special: Collection[int]) -> set[int]:
    """Return the rows (indices in the batch) of which all tokens are special ones, the unknown token included."""
    with_text = {
        row
        for row, sequence in zip(encoded.rows, encoded.sequences, strict=True)
        if any(token not in special for token in sequence)
    }
    return set(encoded.rows) - with_text


def of_texts(
    values: Mapping[str, Sequence[Any]], columns: Iterable[Column], special: SpecialTokens
) -> Iterator[tuple[int, str]]:
    """Yield rows (indices in the batch) with what is odd about a text of theirs that a head reads.

    `values`: the cells by column.
    """
    for column in columns:
        if column.kind not in ("text", "messages") or column.name not in values:
            continue
        for row, cell in enumerate(values[column.name]):
            for text in _texts(cell):
                for note in _of_text(text, column.name, special, missing=isinstance(cell, str)):
                    yield row, note


def _of_text(text: str, column: str, special: SpecialTokens, *, missing: bool) -> Iterator[str]:
    """Yield what is odd about one text; `missing`: whether it may be a word for a missing value."""
    if token := special.written_in(text):
        yield (
            f"column '{column}' holds {token!r} in its text, which the tokenizer reads as its special token of that "
            "name, not as text"
        )
    if missing and is_missing_word(text):
        yield f"column '{column}' is {text.strip()!r}, which programs write for a missing value; here it is a text"
    elif found := damage(text):
        yield f"column '{column}' holds {found}"


def _texts(cell: Any) -> Iterator[str]:
    """Yield the texts in a cell: a text, a list of texts, or messages."""
    if isinstance(cell, str):
        yield cell
    elif isinstance(cell, list):
        for item in cell:
            text = item.get("content", item.get("value")) if isinstance(item, Mapping) else item
            if isinstance(text, str):
                yield text


@dataclass
class NoteCounts:
    """The notes of rows that are read a few at a time."""

    rows: int = 0
    of_source: dict[str, None] = field(default_factory=dict)
    """What their readers noted."""
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    """The place of the first row of each note."""

    def add(self, rows: Rows, notes: Mapping[str, Sequence[int]]) -> None:
        """Count further rows; `notes`: the rows of each note (`Examples.notes`)."""
        self.rows += len(rows)
        self.of_source |= dict.fromkeys(rows.notes)
        for note, noted in notes.items():
            self.counts[note] += len(noted)
            self.first.setdefault(note, rows.where(noted[0]))

    def lines(self) -> list[str]:
        """Return a line for each note, with the number of its rows and the place of the first one."""
        counted = (f"{note} ({n} of {self.rows} rows; first: {self.first[note]})" for note, n in self.counts.items())
        return [*self.of_source, *counted]


def counted(by_task: Mapping[str, NoteCounts]) -> list[str]:
    """Return the lines of several tasks' notes, each once: tasks that read the same texts have the same ones."""
    lines: dict[str, str] = {}
    for task, counts in by_task.items():
        for line in counts.lines():
            lines.setdefault(line, task)
    return [f"task '{task}': {line}" for line, task in lines.items()]


def warnings(task: str, splits: Mapping[str, Rows], notes: Mapping[str, Mapping[str, Sequence[int]]]) -> list[str]:
    """Return one line for each note of a file's reader, and for each note of rows, with the number of its rows by split
    and the place of the first one.

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
    found = [
        f"task '{task}': {note}" for note in dict.fromkeys(note for rows in splits.values() for note in rows.notes)
    ]
    return found + [
        f"task '{task}': {note} ({', '.join(counts[note])}; first: {first})" for note, first in places.items()
    ]
