"""What one cell of a column holds, as heads use it, and what is wrong with it."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hft_core.head import Column

ROLES = ("system", "user", "assistant", "tool")
"""Who speaks in a conversation."""

_ONE = {
    "text": "a non-empty text",
    "label": "a label (text, a whole number or true/false)",
    "number": "a finite number",
    "messages": "a list of messages {role, content}",
}
_MANY = {"text": "non-empty texts", "label": "labels", "number": "finite numbers"}


def expected(column: Column) -> str:
    """What a cell of the column has to be, for a person."""
    if not column.many or column.kind == "messages":
        return _ONE[column.kind]
    places = {"": "", " ": ", or a text divided at blanks"}
    divided = places.get(column.separator, f", or a text divided at {column.separator!r}")
    return f"a list of {_MANY[column.kind]}{divided}"


def problem(value: Any, column: Column) -> str:
    """What was found and what was expected, or an empty string when the cell is as the column asks.

    An empty list is refused where it is read (words, choices, messages). What it means as a target (no label, no
    answer) is the head's to say.
    """
    if not column.many and column.kind != "messages":
        return "" if _fits(value, column.kind) else f"found {shown(value)}, expected {_ONE[column.kind]}"
    if value is None:
        return f"found {shown(value)}, expected {expected(column)}"
    values = as_list(value, column)
    if not values and not column.target:
        return f"found an empty list, expected {expected(column)}"
    for number, one in enumerate(values, start=1):
        fault = _message_problem(one) if column.kind == "messages" else _item_problem(one, column.kind)
        if fault:
            return f"{'message' if column.kind == 'messages' else 'item'} {number}: {fault}"
    return ""


def as_label(value: Any) -> str:
    """A label by its text: true and false for booleans, digits for integers, text without blanks around it.

    So `1` in a JSON file and `1` in a CSV file are the same class, and a stray blank does not make a new one.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip()


def as_number(value: Any) -> float:
    """A number, or a text that is one (as in a CSV file). Raises `ValueError` for all else, infinities included."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or (isinstance(value, str) and "_" in value):
        raise ValueError(f"not a number: {value!r}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("the number is too large") from None
    if not math.isfinite(number):
        raise ValueError(f"not a finite number: {value!r}")
    return number


def as_list(value: Any, column: Column) -> list[Any]:
    """The values in a cell of a column with `many` of them, or the messages of a conversation.

    A list is taken as it is. A text that is a list, as JSON or Python (and so pandas) writes it, is read as one;
    another text is divided at the column's separator, a blank standing for any blanks, and an empty one is an empty
    list. Any other value, and a text where no separator divides, is a list of one.
    """
    if not isinstance(value, str):
        return value if isinstance(value, list) else [value]
    text = value.strip()
    written = _written_list(text)
    if written is not None:
        return written
    if not text:
        return []
    if not column.separator:
        return [value]
    return [part.strip() for part in text.split(None if column.separator == " " else column.separator)]


def shown(value: Any) -> str:
    """The value in at most 40 characters, on one line."""
    if value is None:
        return "nothing (null, or no such key)"
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _written_list(text: str) -> list[Any] | None:
    """The list that the text is in JSON or in Python's notation, of literals only; None when it is no such list."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # what the two raise for other texts
            continue
        return found if isinstance(found, list) else None
    return None


def _fits(value: Any, kind: str) -> bool:
    if kind == "number":
        try:
            as_number(value)
        except ValueError:
            return False
        return True
    if isinstance(value, str):
        return bool(value.strip()) and not _has_lone_surrogate(value)
    return kind == "label" and isinstance(value, int)


def _item_problem(value: Any, kind: str) -> str:
    return "" if _fits(value, kind) else f"found {shown(value)}, expected {_ONE[kind]}"


def _message_problem(message: Any) -> str:
    if not isinstance(message, Mapping):
        return f"found {shown(message)}, expected {{role, content}}"
    if message.get("role") not in ROLES:
        return f"found the role {shown(message.get('role'))}, expected one of {', '.join(ROLES)}"
    if not _fits(message.get("content"), "text"):
        return f"found the content {shown(message.get('content'))}, expected {_ONE['text']}"
    return ""


def _has_lone_surrogate(text: str) -> bool:
    """A JSON file can write half of a surrogate pair; no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
