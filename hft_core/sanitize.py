"""Text that came from elsewhere, made harmless before it is shown or kept; light (standard library only)."""

from __future__ import annotations

import json
import re
from typing import Any

_PASSWORD = re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")
"""`user:password` in a URL."""
_NOT_ASCII = re.compile(r"[^\n\x20-\x7e]")


def plain(text: object) -> str:
    """`text` on one line: control and direction characters written as escapes, passwords in URLs left out."""
    line = without_passwords(" ".join(str(text).splitlines()))
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def json_text(value: Any, *, indent: int | None = None, ascii_only: bool = False, **more: Any) -> str:
    """`value` as JSON in which control and direction characters are escapes; `more`: as in `json.dumps`.

    The json module leaves those beyond ASCII as they are, and a terminal obeys some of them (U+009B).
    """
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, **more)
    return _NOT_ASCII.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)


def without_passwords(text: str) -> str:
    """`text` with `***` where a URL in it has a user's name and password."""
    return _PASSWORD.sub("***", text) if "://" in text else text


def holds_password(text: str) -> bool:
    """Whether a URL in `text` has a user's name and password."""
    return without_passwords(text) != text
