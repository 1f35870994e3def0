"""Read lists that were written into a text cell, and recognize those whose form is not read.

A JSON or Python list is read. What numpy, R, PostgreSQL and others print is not: by the wrong rule, its items would be
glued together (`"['a' 'b']"` is the one text `ab` in Python) or brackets would become part of a class's name.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hft_core.head import Column

_CALL = re.compile(
    r"(?:\w+\.)?(array|tensor|Index|RangeIndex|Series|deque|list|tuple|set|frozenset|c|vector)\(\s*[\"'\[({\d-].*\)",
    re.DOTALL,
)
_NUMBERS = re.compile(r"\[\s*[-+\d.][\d.eE+-]*\s+[\d.eE+\-\s]*\]")
_QUOTES = "\"'"


def parse(text: str) -> list[Any] | None:
    """Parse a JSON or Python list of literals; None if the text is not one."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            values = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # raised for other text
            continue
        return values if isinstance(values, list) and Ellipsis not in values else None
    return None


def printed_form(text: str, column: Column) -> str:
    """Return what the text of a cell looks like if it is a list in a form that is not read; empty for any other text.

    Brackets may belong to the words of a sentence or to a single answer: in a column of texts, only what no text looks
    like counts as a list.
    """
    text = text.strip()
    if _CALL.fullmatch(text):
        return f"{text[: text.index('(')]}(…), as a program prints it"
    inside = text[1:-1].strip()
    if _encloses(text, "[", "]"):
        return _bracketed(text, inside, column)
    if _encloses(text, "{", "}") and (_quoted(inside) or _items(inside, column)):
        return "a set, or an array of PostgreSQL"
    if _encloses(text, "(", ")") and "," in inside and (_quoted(inside) or _items(inside, column)):
        return "a tuple"
    if column.kind == "label" and column.separator == " " and (mark := _mark_behind_items(text)):
        return f"a list divided at {mark!r}, not at blanks"
    return ""


def holds_list(text: str) -> bool:
    """Return whether the text is a list of several items, or of one text, however it is written."""
    text = text.strip()
    if _CALL.fullmatch(text) or _glued(text):
        return True
    values = parse(text)
    return bool(values) and (len(values or ()) > 1 or isinstance((values or [0])[0], str))


def _mark_behind_items(text: str) -> str:
    """Return the mark behind each item but the last of a text divided at blanks; empty if there is none."""
    *items, _ = text.split() or [""]
    return next((mark for mark in ",;|" if items and all(len(x) > 1 and x.endswith(mark) for x in items)), "")


def _bracketed(text: str, inside: str, column: Column) -> str:
    if _glued(text):
        return "a numpy array: no comma is between its items"
    if parse(text) is not None:
        return ""
    if re.search(r"[\"'\d],?\s+\.\.\.,?\s+[\"'\d]", inside):
        return "a list that was shortened when it was printed"
    if _NUMBERS.fullmatch(text) and not (column.kind == "text" and column.separator):
        return "a numpy array: no comma is between its items"
    if _quoted(inside):
        return "a list, but is no valid JSON or Python"
    return "a list without quotes around its items" if _items(inside, column) else ""


def _items(inside: str, column: Column) -> bool:
    """Return whether what brackets enclose must be items: for classes always, for texts that are not divided at a comma
    or, where blanks divide a cell, at one without a blank."""
    if column.separator == " ":
        form = r"(?s).*\w,.*" if column.kind == "label" else r"[^\s,]+(,[^\s,]+)+"
        return re.fullmatch(form, inside) is not None
    return column.kind == "label" or (not column.separator and "," in inside)


def _quoted(inside: str) -> bool:
    return len(inside) > 1 and inside[0] in _QUOTES and inside[-1] in _QUOTES


def _encloses(text: str, opening: str, closing: str) -> bool:
    """Return whether the text's first character is a bracket that its last one closes."""
    if len(text) < 2 or text[0] != opening or text[-1] != closing:
        return False
    depth = 0
    for i, mark in enumerate(text):
        depth += (mark == opening) - (mark == closing)
        if depth <= 0:
            return i == len(text) - 1
    return True  # a bracket within quotes, say


def _glued(text: str) -> bool:
    """Return whether two quoted texts follow each other without a comma, which Python reads as one."""
    if not text.startswith("[") or text.count("'") + text.count('"') < 4:
        return False
    strings = False
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.STRING and strings:
                return True
            if token.type not in (tokenize.NL, tokenize.NEWLINE):
                strings = token.type == tokenize.STRING
    except (tokenize.TokenError, SyntaxError, ValueError):
        return False
    return False
