"""Describe what the columns of a data file hold, from a sample of its rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hft_core.data import list_text
from hft_core.data.cells import as_label, as_number
from hft_core.data.rows import Rows
from hft_core.inspection.column_names import LABEL, NUMBER, is_named

Kind = Literal["text", "label", "number", "words", "texts", "numbers", "tags", "messages", "id", "empty", "other"]
"""What a column holds. `words`: a list of short texts; `texts`: a list of longer ones; `tags`: one BIO-like tag a word,
as a list or as a text divided at blanks; `id`: a key that differs in nearly every row."""

SAMPLE = 5_000
"""Rows that are looked at, evenly spaced."""
MAX_CLASSES = 500
"""A column of more different values is not one of classes."""
FEW = 20
"""A column of so few different values may be one of classes in a small file too."""
LABEL_CHARACTERS, LABEL_WORDS = 80, 5
"""A class has no longer name, in most rows."""

_TAG = re.compile(r"(O|[BIESLUM]-\S+)")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d.*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}")


@dataclass(frozen=True)
class ColumnProfile:
    """What a column holds."""

    name: str
    """A key of objects has the dotted name that a recipe gives it."""
    kind: Kind
    values: tuple[Any, ...]
    """Of the sample; None where a cell is blank."""
    distinct: int
    """Different values in the sample; 0 for lists."""
    length: int
    """Median words of its texts (CJK: characters), or items of its lists."""
    whole: bool = False
    """All numbers are whole."""

    @property
    def present(self) -> list[Any]:
        """The values that are not blank."""
        return [value for value in self.values if value is not None]

    @property
    def blank(self) -> float:
        """The share of blank cells."""
        return 1 - len(self.present) / max(1, len(self.values))


def profiles(rows: Rows) -> list[ColumnProfile]:
    """Describe the columns, and the keys of columns of objects."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int))
    sample = rows.select(chosen)
    found = []
    for name in sample.columns:
        values = sample[name]
        present = [value for value in values if value is not None]
        if present and all(isinstance(value, Mapping) for value in present):
            keys = dict.fromkeys(key for value in present for key in value)
            found += [profile(f"{name}.{key}", [(value or {}).get(key) for value in values]) for key in keys]
        else:
            found.append(profile(name, values))
    return found


def profile(name: str, values: Sequence[Any]) -> ColumnProfile:
    """Describe one column."""
    cells = [None if value is None or (isinstance(value, str) and not value.strip()) else value for value in values]
    present = [cell for cell in cells if cell is not None]
    lists = [_as_items(cell) for cell in present]
    if not present:
        return ColumnProfile(name, "empty", tuple(cells), 0, 0)
    if all(items is not None for items in lists):
        of_lists = [items for items in lists if items is not None]
        parsed = [None if cell is None else _as_items(cell) for cell in cells]
        return ColumnProfile(name, _kind_of_lists(of_lists), tuple(parsed), 0, _median(map(len, of_lists)))
    if not all(isinstance(cell, str | int | float) for cell in present):
        return ColumnProfile(name, "other", tuple(cells), 0, 0)
    distinct = len({as_label(cell) for cell in present})
    if (whole := _numbers(present)) is not None:
        key = whole and distinct == len(present) > FEW and not is_named(name, LABEL | NUMBER)
        return ColumnProfile(name, "id" if key else "number", tuple(cells), distinct, 1, whole)
    texts = [as_label(cell) for cell in present]
    length = _median(map(word_count, texts))
    return ColumnProfile(name, _kind_of_texts(name, texts, distinct, length), tuple(cells), distinct, length)


def word_count(text: str) -> int:
    """Count the words of a text, each Chinese, Japanese or Korean character as one."""
    return len(_CJK.findall(text)) + len(_CJK.sub(" ", text).split())


def is_tag(word: Any) -> bool:
    """Return whether a word is a tag of a chunk scheme (`B-PER`, `O`)."""
    return isinstance(word, str) and _TAG.fullmatch(word) is not None


def _as_items(cell: Any) -> list[Any] | None:
    if isinstance(cell, str):
        return list_text.parse(cell.strip())
    return cell if isinstance(cell, list) else None


def _kind_of_lists(lists: Sequence[list[Any]]) -> Kind:
    items = [item for cell in lists for item in cell]
    if not items:
        return "other"
    if all(isinstance(item, Mapping) for item in items):
        return (
            "messages" if all({"role", "content"} <= set(i) or {"from", "value"} <= set(i) for i in items) else "other"
        )
    if all(isinstance(item, int | float) and not isinstance(item, bool) for item in items):
        return "numbers"
    if not all(isinstance(item, str) for item in items):
        return "other"
    if all(map(is_tag, items)) and any(item != "O" for item in items):
        return "tags"
    return "words" if _median(map(word_count, items)) <= 1 else "texts"


def _kind_of_texts(name: str, texts: Sequence[str], distinct: int, length: int) -> Kind:
    words = [text.split() for text in texts]
    if all(is_tag(word) for row in words for word in row) and any(len(row) > 1 for row in words):
        return "tags"
    if all(map(_DATE.fullmatch, texts)):
        return "other"
    short = float(np.median([len(text) for text in texts])) <= LABEL_CHARACTERS and length <= LABEL_WORDS
    most = len(texts) if is_named(name, LABEL) else max(FEW, len(texts) // 10)
    if short and distinct <= min(most, MAX_CLASSES, len(texts) - 1) and (distinct <= len(texts) / 2 or distinct <= 2):
        return "label"
    without_blanks = length <= 1 and not any(_CJK.search(text) for text in texts)
    return "id" if without_blanks and distinct > 0.9 * len(texts) else "text"


def _numbers(cells: Sequence[Any]) -> bool | None:
    """Return whether all cells are whole numbers; None unless all are numbers."""
    try:
        numbers = [as_number(cell) for cell in cells]
    except ValueError:
        return None
    return all(number.is_integer() for number in numbers)


def _median(numbers: Any) -> int:
    found = list(numbers)
    return int(np.median(found)) if found else 0
