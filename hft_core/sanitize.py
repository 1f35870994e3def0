"""Make text and values from elsewhere safe to print or to store; light (standard library only)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_PASSWORD = re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")
"""`user:password` in a URL."""
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


def without_passwords(text: str) -> str:
    """Return `text` with `***` in place of user names and passwords in URLs."""
    return _PASSWORD.sub("***", text) if "://" in text else text


def holds_password(text: str) -> bool:
    """Return whether a URL in `text` holds a user name and password."""
    return without_passwords(text) != text
