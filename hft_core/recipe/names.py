"""Say which names tasks and stages may have: words in any script that any file system can hold."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

LONGEST = 64
"""Characters of a name."""
BESIDE = frozenset("_-\u00b7")
"""Characters that may stand beside letters, marks and digits; the last is the Catalan middle dot."""
JOINERS = "\u200c\u200d"
"""Invisible characters that Persian and the scripts of India need between letters, and emoji between pictures."""
NO_PICTURES = "\ufffc\ufffd"
"""Symbols that stand for something missing."""
PORTS = "0123456789\u00b9\u00b2\u00b3"
DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"com{n}" for n in PORTS), *(f"lpt{n}" for n in PORTS)})
"""Names that Windows keeps for devices."""
FORM = "a name of letters, digits, '-' and '_' that starts with a letter or digit"


def normalized(name: str) -> str:
    """Return the name in Unicode's composed form (NFC), in which names are compared and written."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def in_form(name: str) -> str:
    """Return the name normalized. Raises `ValueError` for one that is none."""
    name = normalized(name)
    if not 0 < len(name) <= LONGEST:
        raise ValueError(f"expected a name of 1 to {LONGEST} characters, not {len(name)}")
    wrong = next((c for i, c in enumerate(name) if not _fits(name, i)), "")
    if wrong:
        raise ValueError(f"expected {FORM}, not {_shown(name)}: it has {_called(wrong)}")
    if name.casefold() in DEVICES:
        raise ValueError(f"'{name}' is a device on Windows, where its files could not be copied; take another name")
    return name


def folded(name: str) -> str:
    """Return what two names have in common that some file system, or a reader, takes for one."""
    return unicodedata.normalize("NFC", normalized(name).casefold()).translate(dict.fromkeys(map(ord, JOINERS)))


def collision(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two of `names` that differ only by case, or by what cannot be seen."""
    ordered = sorted(names, key=folded)
    return next(((one, two) for one, two in pairwise(ordered) if folded(one) == folded(two)), None)


def normalized_data(value: Any) -> Any:
    """Return plain data with all of its texts and keys normalized."""
    if isinstance(value, str):
        return normalized(value)
    if isinstance(value, dict):
        return {normalized(k) if isinstance(k, str) else k: normalized_data(v) for k, v in value.items()}
    return [normalized_data(part) for part in value] if isinstance(value, list | tuple) else value


def _fits(name: str, index: int) -> bool:
    character = name[index]
    kind = unicodedata.category(character)
    if kind[0] in "LN" or (kind == "So" and character not in NO_PICTURES):
        return True
    if index == 0:
        return False
    if character in JOINERS:
        return index + 1 < len(name) and not name[index - 1].isascii() and not name[index + 1].isascii()
    return kind[0] == "M" or character in BESIDE


def _shown(name: str) -> str:
    return repr(name) if len(name) <= 60 else f"{name[:56]!r}…"


def _called(character: str) -> str:
    name = unicodedata.name(character, "")
    code = f"U+{ord(character):04X}"
    return f"{character!r}" if " " < character <= "~" else f"{code} ({name.lower()})" if name else code
