"""Report columns of texts that are odd as a whole: in quotes, JSON objects, with the names of classes, or equal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from hft_core.data.cells import as_label
from hft_core.data.rows import CHECK_BATCH, Rows

if TYPE_CHECKING:
    from hft_core.head import Column

FEW = 8
"""So few rows may be alike by chance."""
MANY, SHORT = 20, 4
"""In so many rows, no name of so many letters is in each text by chance."""


def warnings(columns: Mapping[str, Sequence[Column]], rows: Mapping[str, Mapping[str, Rows]]) -> list[str]:
    """Return a line for each column, or two, whose cells are odd in all train rows. `columns`: what the head of each
    task reads; `rows`: by task and split."""
    found = []
    for task, splits in rows.items():
        train = splits["train"]
        texts = [c for c in columns[task] if c.kind == "text" and not c.many and train.has(c.name)]
        if texts and len(train) >= FEW:
            label = next(
                (c for c in columns[task] if c.target and c.kind == "label" and c.classes and not c.many), None
            )
            told = [*_of_columns(texts, train), *(_given_away(texts, label, train) if label is not None else ())]
            found += [f"task '{task}': {line}" for line in told]
    return found


def _of_columns(columns: Sequence[Column], rows: Rows) -> Iterator[str]:
    left = [(column.name, form) for column in columns if not column.target for form in FORMS]
    pairs = list(combinations((column.name for column in columns), 2))
    for _, batch in rows.batches(CHECK_BATCH, [column.name for column in columns]):
        left = [(name, form) for name, form in left if all(isinstance(c, str) and FORMS[form](c) for c in batch[name])]
        pairs = [(one, other) for one, other in pairs if _equal(batch[one], batch[other])]
        if not left and not pairs:
            return
    for name, form in left:
        yield f"all {len(rows)} texts of column '{name}' {form}"
    for one, other in pairs:
        yield f"columns '{one}' and '{other}' hold the same text in all {len(rows)} train rows"


def _given_away(columns: Sequence[Column], label: Column, rows: Rows) -> Iterator[str]:
    """Yield a line where the texts of all rows have the name of their class among their words."""
    names = [column.name for column in columns if not column.target]
    if not names or not rows.has(label.name) or len(rows) < MANY:
        return
    seen: set[str] = set()
    for _, batch in rows.batches(CHECK_BATCH, [*names, label.name]):
        for *texts, cell in zip(*(batch[name] for name in (*names, label.name)), strict=True):
            name = as_label(cell).casefold()
            if len(name) < SHORT or not any(name in str(text).casefold() for text in texts):
                return
            seen.add(name)
    if len(seen) > 1:
        yield (
            f"the texts of all {len(rows)} train rows hold the name of their class in column '{label.name}', "
            "from which it is read off: texts to predict on may lack it"
        )


def _equal(one: Sequence[object], other: Sequence[object]) -> bool:
    return all(str(a).strip() == str(b).strip() for a, b in zip(one, other, strict=True))


def _in_quotes(text: str) -> bool:
    text = text.strip()
    return len(text) > 2 and text[0] == text[-1] and text[0] in "\"'"


def _is_object(text: str) -> bool:
    text = text.strip()
    if not (text.startswith("{") and text.endswith("}")):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _begins_with_class(text: str) -> bool:
    return text.lstrip().startswith("__label__")


FORMS: dict[str, Callable[[str], bool]] = {
    "are in quotes, which are read as part of them": _in_quotes,
    "are JSON objects, which are read as text (objects with columns, one a line, are of the format jsonl)": _is_object,
    "begin with '__label__', as files of fastText do: the classes are read as part of the texts": _begins_with_class,
}
