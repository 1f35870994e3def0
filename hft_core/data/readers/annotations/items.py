"""Hold what annotators answered about a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hft_core.errors import DataError

EITHER = 0x10000
"""Characters from here on are two units of UTF-16, which JavaScript counts."""


@dataclass(frozen=True, order=True)
class Span:
    """A labeled part of a text: characters from `start` to before `end`."""

    start: int
    end: int
    label: str


Answer = tuple[Span, ...] | tuple[str, ...] | float
"""Spans, labels or texts, or a number."""


@dataclass(frozen=True)
class Item:
    """One annotated text."""

    number: int
    """Its place in the file, from 1."""
    columns: Mapping[str, Any]
    """What was known before it was annotated."""
    answers: Mapping[str, Sequence[Answer]]
    """By question: one answer of each annotator."""
    text_column: str = ""
    """The column that its spans are of; empty where it has none, which is also an answer."""
    words: Sequence[tuple[int, int]] | None = None
    """Characters of each word, where the tool tells."""

    @property
    def text(self) -> str:
        """The text that its spans are of; empty where no column is known."""
        return str(self.columns.get(self.text_column, ""))

    def completed(self, text_column: str) -> Item:
        """Return the item with `text_column` where it has none of its own, and with spans and labels in one order:
        tools write them as the annotator clicked."""
        ordered = {name: [_in_order(answer) for answer in answers] for name, answers in self.answers.items()}
        return replace(self, answers=ordered, text_column=self.text_column or text_column)


@dataclass
class Export:
    """The items of a file, and how many were left out, by reason."""

    items: list[Item] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def completed(self) -> Export:
        """Return the export with a column of spans for each item: that of the other items where it has none itself."""
        column = next((item.text_column for item in self.items if item.text_column), "")
        return Export([item.completed(column) for item in self.items], self.left_out)


def _in_order(answer: Any) -> Answer:
    return tuple(sorted(answer)) if isinstance(answer, tuple) else answer


def span(text: str, start: Any, end: Any, label: Any, place: str, *, shown: str | None = None) -> Span:
    """Return a checked span without the blanks at its ends. Raises `DataError` that begins with `place`.

    `shown`: the text of the span, where the tool wrote it down; it decides whether the offsets count characters or
    units of UTF-16.
    """
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(label, str) and label.strip()):
        raise DataError(f"{place}: expected a span with the numbers of its first and last character and a label")
    if shown is not None and text[start:end] != shown:
        start, end = _of_utf16(text, start), _of_utf16(text, end)
        if text[start:end] != shown:
            raise DataError(
                f"{place}: the span from {start} to {end} is {text[start:end][:40]!r} in the text, but {shown[:40]!r} "
                "by its own; expected offsets of this text"
            )
    if not 0 <= start < end <= len(text):
        raise DataError(f"{place}: a span from {start} to {end} in a text of {len(text)} characters")
    found = text[start:end]
    start, end = start + len(found) - len(found.lstrip()), end - (len(found) - len(found.rstrip()))
    if start >= end:
        raise DataError(f"{place}: the span '{label}' holds blanks only")
    return Span(start, end, label.strip())


def _of_utf16(text: str, units: int) -> int:
    """Return the number of characters in so many units of UTF-16."""
    return len(text.encode("utf-16-le", "surrogatepass")[: 2 * units].decode("utf-16-le", "ignore"))


def has_two_units(text: str) -> bool:
    """Return whether a character of the text is two units of UTF-16."""
    return any(ord(mark) >= EITHER for mark in text)
