"""A stranger's spec taken as plain facts; light.

A spec checks its form when it is made. One that comes from a plugin may be a subclass that left the checks out, or have
been changed since; but its name becomes the name of files, and every text of it is printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hft_core.specs import Spec

LONGEST = 1000
"""Characters of a text."""

_TYPES: dict[str, type] = {"str": str, "bool": bool, "tuple[str, ...]": tuple, "Mapping[str, Any]": Mapping}
_ANY = ("api", "requires")
"""Fields that may hold anything here, since a wrong value of theirs has a state of its own."""


def taken(spec: Spec, kind: type[Spec]) -> Spec:
    """`spec` itself when it is a `kind` and nothing more, else a copy that is.

    Raises `ValueError` for a field that does not have its form, and whatever a stranger's object raises.
    """
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = getattr(spec, field.name)
        if field.name not in _ANY:
            if not _is(value, _TYPES[str(field.type)]):
                raise ValueError(f"its {field.name} is a {type(value).__name__}, expected {field.type}")
            if any(len(text) > LONGEST for text in _texts(value)):
                raise ValueError(f"its {field.name} is longer than {LONGEST} characters")
        values[field.name] = value
    copy = kind(**values)
    return spec if type(spec) is kind else copy


def _is(value: object, expected: type) -> bool:
    """Whether `value` is one; a subclass of text would be printed as it likes."""
    if expected is tuple:
        return type(value) is tuple and all(type(part) is str for part in value)
    return type(value) is expected or (expected is Mapping and isinstance(value, Mapping))


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return value if isinstance(value, tuple) else ()
