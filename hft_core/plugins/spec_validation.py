"""Check the types and the form of a spec's fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hft_core.specs import Spec

_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "bool": bool,
    "int": int,
    "tuple[str, ...]": (tuple, list),
    "Mapping[str, Any]": Mapping,
}
"""Accepted types by annotation."""


def validated_copy(spec: Spec, kind: type[Spec]) -> Spec:
    """Copy a plugin's spec, an instance of `kind` or of a subclass, into a new `kind`, which checks its form.

    Raises `ValueError` for a field of the wrong type or form.
    """
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = getattr(spec, field.name)
        if not isinstance(value, _TYPES[str(field.type)]):
            raise ValueError(f"its {field.name} is a {type(value).__name__}, expected {field.type}")
        values[field.name] = value
    return kind(**values)
