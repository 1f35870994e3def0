"""Say the type of a plugin's option in words: `number > 0`, `list of texts`, `one of 'mean', 'cls'`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hft_core.options import LocalPath

SINGULAR = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    NoneType: "nothing",
    dict: "mapping",
}
PLURAL = {str: "texts", int: "whole numbers", float: "numbers", bool: "true or false", dict: "mappings"}
LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of", "pattern": "of the form"}
"""How the constraints of a pydantic field are said."""
COUNTS = {2: "two", 3: "three"}


def option_type(field: FieldInfo) -> str:
    """Return the type of an option in words. That it may be left out is not part of it."""
    annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return _words(annotation)


def _words(annotation: Any, names: Mapping[Any, str] = SINGULAR) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _limited(annotation, names)
    if origin in (Union, UnionType):
        members = [_words(member, names) for member in arguments if member is not NoneType]
        return " or ".join(dict.fromkeys(members))
    if origin is Literal:
        return _choices(arguments)
    if origin in (list, set, frozenset, Sequence) or (origin is tuple and arguments[1:] == (...,)):
        return f"list of {_words(arguments[0], PLURAL)}"
    if origin is tuple:
        return f"list of {COUNTS.get(len(arguments), len(arguments))} {_words(arguments[0], PLURAL)}"
    if origin in (dict, Mapping):
        return f"mapping of names to {_words(arguments[1], PLURAL)}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"{{{', '.join(f'{name}: {option_type(field)}' for name, field in annotation.model_fields.items())}}}"
    return names.get(annotation) or (annotation.__name__ if isinstance(annotation, type) else str(annotation))


def _limited(annotation: Any, names: Mapping[Any, str]) -> str:
    """Return the words of an annotated type, with its limits."""
    base, *metadata = get_args(annotation)
    if get_args(LocalPath)[-1] in metadata:  # its validator; pydantic takes the type of a field apart
        return "path" if names is SINGULAR else "paths"
    parts = [part for each in metadata for part in (each.metadata if isinstance(each, FieldInfo) else [each])]
    limits = [
        f"{sign} {getattr(part, name)}"
        for part in parts
        for name, sign in LIMITS.items()
        if getattr(part, name, None) is not None
    ]
    return " ".join([_words(base, names), ", ".join(limits)]).strip()


def _choices(values: Iterable[Any]) -> str:
    shown = [f"'{value}'" if isinstance(value, str) else str(value).lower() for value in values]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"
