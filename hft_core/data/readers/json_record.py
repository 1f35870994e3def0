"""Parse JSON objects with errors that name their place."""

from __future__ import annotations

import json
from typing import Any

from hft_core.data.readers.records import Record
from hft_core.errors import DataError


def parse(text: str, place: str) -> Any:
    """Parse JSON text. Raises `DataError` that begins with `place`."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        hint = "; one object a line is the format jsonl" if error.msg == "Extra data" and line else ""
        raise DataError(f"{place}: not valid JSON: {error.msg} ({line}column {error.colno}){hint}") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; very deep nesting
        raise DataError(f"{place}: JSON that cannot be read: {str(error).split(';')[0]}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. Raises `ValueError` for a key that it has twice: json would keep the last value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice[:40]!r} twice")
    return found


def as_record(value: Any, place: str) -> Record:
    """Return `value` if it is an object with keys. Raises `DataError` that begins with `place`."""
    if not isinstance(value, dict) or not value:
        raise DataError(f"{place}: expected an object with the columns as its keys, found {kind(value)}")
    return value


def kind(value: Any) -> str:
    """Name the kind of a JSON value for a message."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return "an object without keys" if value == {} else names.get(type(value), "a number")
