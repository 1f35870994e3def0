"""Make text and values from elsewhere safe to print or to store; light (standard library only)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_AT, _COLON, _SLASH = "(?:@|%40)", "(?::|%3a)", "(?:/|%2f)"
_URL = re.compile(
    rf"(?P<start>(?<![\w.-])[a-z][a-z0-9+.-]+{_COLON}{_SLASH}{{1,2}}|(?<![\w.:/%-]){_SLASH}{{2}})(?P<rest>[^\s\"'<>`{{}}]+)",
    re.IGNORECASE,
)
"""A URL, also one whose slashes a path has joined, or that is quoted inside another."""
_LAST_AT = re.compile(rf"(?s:.*){_AT}", re.IGNORECASE)
_SLASH_AT = re.compile(rf"{_SLASH}{_AT}", re.IGNORECASE)
_AUTHORITY = re.compile(rf"(?:(?!{_SLASH})[^?#])*", re.IGNORECASE)
_PORT = re.compile(rf"(?:\[[0-9a-f:.]*\]|(?:(?!{_COLON}).)*)(?:{_COLON}[0-9]{{0,5}})?", re.IGNORECASE)
_PARAMETER = re.compile(
    r"(?P<name>(?:[?&;#]|%3f|%26|%23)"
    r"(?:[\w.-]*(?:token(?!s|iz|is)|secret|passw|pwd|api_?-?key|access_?-?key|signature|credential|authorization|jwt)"
    r"[\w.-]*|key|sig|auth|pass|pw|sas)(?:=|%3d))(?!\*{3}(?:[&;#]|%26|$))(?:(?!%26)[^&;#\s\"'<>`{}])+",
    re.IGNORECASE,
)
"""A parameter of a URL that is a secret by its name."""
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9_])(?:(?:hf|gh[opsu]|npm)_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{50,}|glpat-[A-Za-z0-9_-]{20,}"
    r"|sk-(?:[a-z]+-)?[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{35})"
)
"""What is a secret by its form, wherever it stands: tokens of hubs and clouds."""
_SECRET = "***"
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
"""Characters beside tab and line feed that a terminal obeys, or that reorder or hide what a reader sees."""
_NOT_ASCII = re.compile(r"[^\n\x20-\x7e]")


def plain(text: object) -> str:
    """Return `text` on one line, with control and direction characters escaped and passwords in URLs removed."""
    line = without_passwords(" ".join(str(text).splitlines()))
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def json_text(value: Any, *, indent: int | None = None, ascii_only: bool = False, **more: Any) -> str:
    """Return `value` as JSON with control and direction characters escaped; `more`: as in `json.dumps`.

    The json module leaves those beyond ASCII unescaped, and terminals obey some of them (U+009B).
    """
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, **more)
    return _NOT_ASCII.sub(lambda match: match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1], text)


def finite(value: Any) -> Any:
    """Return `value` with null for numbers that are not finite, which JSON cannot express."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def without_controls(text: str) -> str:
    """Return a text of several lines with control and direction characters escaped."""
    return CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def without_passwords(text: str) -> str:
    """Return `text` with `***` in place of its secrets: user names, passwords and tokens in URLs (before the host, or
    as parameters), and tokens of hubs and clouds.

    Where a password may hold a slash or an at sign, more than it may be left out.
    """
    if "/" in text or "%2" in text:
        text = _URL.sub(_without_user, text)
    return _TOKEN.sub(_SECRET, _PARAMETER.sub(rf"\g<name>{_SECRET}", text))


def _without_user(match: re.Match[str]) -> str:
    rest = match["rest"]
    authority = _AUTHORITY.match(rest)
    host = authority[0] if authority else ""
    end = _LAST_AT.match(rest)
    if end is None:
        return match[0]
    if not _LAST_AT.match(host):  # an @ in the path belongs to a password where a slash may be part of that
        named_port = _PORT.fullmatch(host) is not None
        if named_port and (not re.search(rf"{_COLON}", host, re.IGNORECASE) or _SLASH_AT.search(rest)):
            return match[0]
    return f"{match['start']}{_SECRET}{rest[end.end() - len(_at(end[0])) :]}"


def _at(text: str) -> str:
    """Return the at sign that ends `text`, as it is written."""
    return "@" if text.endswith("@") else text[-3:]


def holds_password(text: str) -> bool:
    """Return whether `text` holds a secret that `without_passwords` leaves out."""
    return without_passwords(text) != text
