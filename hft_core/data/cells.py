"""Check and convert the cells of the columns that heads read."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from hft_core.data import list_text

if TYPE_CHECKING:
    from hft_core.head import Column

ROLES = ("system", "user", "assistant", "tool")
"""Roles of the messages of a conversation."""

LARGEST = 3.4028234e38
"""The largest number of float32, in which models compute; that of bfloat16 is about the same."""

SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant"}
"""Roles of ShareGPT's messages that have another name here."""

_ONE = {
    "text": "a non-empty text",
    "label": "a label (text, a whole number or true/false)",
    "number": "a finite number",
    "messages": "a list of messages {role, content}",
    "tools": "a list of JSON schemas of functions",
}
_WHOLE = re.compile(r"^([+-]?\d+)\.0+$")
"""A whole number as pandas writes it into a file where the column has empty cells."""
_MISSING = frozenset(
    {"nan", "-nan", "none", "null", "(null)", "na", "n/a", "<na>", "nat", "undefined", "\\n", "#n/a", "#na", "#n/a n/a"}
    | {"#ref!", "#value!", "#name?", "#null!", "#num!", "#div/0!", "1.#qnan", "-1.#ind", "1.#ind", "-1.#qnan"}
)
"""What pandas, databases and spreadsheets write for a missing value, in small letters."""
_MANY = {"text": "non-empty texts", "label": "labels", "number": "finite numbers"}


def expected(column: Column) -> str:
    """Describe a valid cell of the column, for a message."""
    if not column.many or column.kind in ("messages", "tools"):
        return _ONE[column.kind]
    forms = {"": "", " ": ", or a text divided at blanks"}
    divided = forms.get(column.separator, f", or a text divided at {column.separator!r}")
    return f"a list of {_MANY[column.kind]}{divided}"


def problem(value: Any, column: Column) -> str:
    """Return what was found and what was expected, or an empty string for a valid cell.

    An empty list is invalid as an input (words, choices, messages). As a target (no label, no answer), the head
    decides.
    """
    if column.kind == "tools":
        return _tools_problem([] if value is None else as_list(value, column))
    if not column.many and column.kind != "messages":
        if column.kind == "label" and column.classes and isinstance(value, str) and list_text.holds_list(value):
            return f"found {shown(value)}, which is a list; expected one label"
        return _item_problem(value, column.kind)
    if value is None:
        return f"found {shown(value)}, expected {expected(column)}"
    if isinstance(value, str) and (form := list_text.printed_form(value, column)):
        return f'found {shown(value)}, which looks like {form}; expected a list as JSON writes it: ["a", "b"]'
    values = as_list(value, column)
    if not values and not column.target:
        return f"found an empty list, expected {expected(column)}"
    for number, item in enumerate(values, start=1):
        item_problem = _message_problem(item) if column.kind == "messages" else _item_problem(item, column.kind)
        if item_problem:
            return f"{'message' if column.kind == 'messages' else 'item'} {number}: {item_problem}"
    return ""


def as_label(value: Any) -> str:
    """Return a label as text without surrounding blanks (`true` and `false` for booleans).

    So `1` is the same class in JSON and CSV files.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip()


def group_key(value: Any) -> Hashable:
    """Return what is equal for the cells of rows that form a group.

    Numbers and texts are compared as labels are, and whole numbers by value: 7, "7", " 7" and 7.0 are one group.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str | int):
        label = as_label(value)
        return _WHOLE.sub(r"\1", label)
    return (type(value).__name__, repr(value))


def is_missing_word(text: str) -> bool:
    """Return whether a text is what programs write for a missing value (`nan`, `None`, `NULL`, `N/A`, `#REF!`)."""
    return text.strip().lower() in _MISSING


def as_number(value: Any) -> float:
    """Convert a number, or its text (as in a CSV file). Raises `ValueError` for anything else, and if not finite."""
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
    """Return the values of a cell of a column with `many` of them, or the messages of a conversation.

    A list is returned as it is. Text in the form of a JSON or Python list (as pandas writes it) is parsed; other text
    is split at the column's separator (a blank: at any blanks), and empty text is an empty list. Anything else is a
    list of one value. Messages in ShareGPT's form `{from, value}` become `{role, content}`.
    """
    if column.kind == "messages":
        return [_message(item) for item in _as_list(value, column)]
    return _as_list(value, column)


def _as_list(value: Any, column: Column) -> list[Any]:
    if not isinstance(value, str):
        return value if isinstance(value, list) else [value]
    text = value.strip()
    values = list_text.parse(text)
    if values is not None:
        return values
    if not text:
        return []
    if not column.separator:
        return [value]
    return [part.strip() for part in text.split(None if column.separator == " " else column.separator)]


def shown(value: Any) -> str:
    """Format a value on one line, in at most 40 characters."""
    if value is None:
        return "nothing (null, or no such key)"
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


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
    if not _fits(value, kind):
        return f"found {shown(value)}, expected {_ONE[kind]}"
    if kind == "number" and abs(as_number(value)) > LARGEST:
        return f"found {shown(value)}, expected a number that float32 can hold (at most {LARGEST:.1e})"
    if kind == "label" and isinstance(value, str) and any(unicodedata.category(c) == "Cc" for c in value.strip()):
        return f"found {shown(value)}, expected a label without line breaks and control characters"
    return ""


def _message(item: Any) -> Any:
    """Return a message as `{role, content}`; anything that is not in ShareGPT's form unchanged."""
    if not isinstance(item, Mapping) or "from" not in item or "role" in item:
        return item
    others = {key: part for key, part in item.items() if key not in ("from", "value")}
    return {"role": SHAREGPT_ROLES.get(item["from"], item["from"]), "content": item.get("value"), **others}


def _message_problem(message: Any) -> str:
    if not isinstance(message, Mapping):
        return f"found {shown(message)}, expected {{role, content}}"
    if message.get("role") not in ROLES:
        return f"found the role {shown(message.get('role'))}, expected one of {', '.join(ROLES)}"
    if message.get("function_call"):
        return "found a function_call, the older form of OpenAI; expected tool_calls [{function: {name, arguments}}]"
    if message["role"] == "assistant" and message.get("tool_calls") and not message.get("content"):
        return _calls_problem(message["tool_calls"])
    if not _fits(message.get("content"), "text"):
        return f"found the content {shown(message.get('content'))}, expected {_ONE['text']}"
    return _calls_problem(message.get("tool_calls") or [])


def _calls_problem(calls: Any) -> str:
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not _fits(function.get("name"), "text"):
            return f"found the tool call {shown(call)}, expected {{function: {{name, arguments}}}}"
    return ""


def _tools_problem(tools: list[Any]) -> str:
    for number, tool in enumerate(tools, start=1):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not _fits(function.get("name"), "text"):
            return f"tool {number}: found {shown(tool)}, expected the JSON schema of a function, {{name, parameters}}"
    return ""


def _has_lone_surrogate(text: str) -> bool:
    """Return whether the text has half of a surrogate pair, which JSON allows and tokenizers reject."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
