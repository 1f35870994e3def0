"""Word pydantic's errors in a recipe or in a plugin's options, in one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from hft_core.recipe.did_you_mean import suggest_key
from hft_core.recipe.fields import KeyPathError

Key = str | int
KeyPath = tuple[Key, ...]

SHOWN = 4
"""Number of problems that one message lists."""

_TYPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping (key: value)",
    "mapping_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "none_required": "null",
    "string_unicode": "text in UTF-8",
}
_BOUNDS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}


@dataclass(frozen=True)
class Problem:
    """One error."""

    path: KeyPath
    """The key, as the model spells it."""
    kind: str
    """`unknown`, `missing` or `value`."""
    text: str


def in_one_line(problems: Sequence[tuple[str, str]]) -> str:
    """Return the first (place, text) as the message, with the others appended."""
    first, *others = (f"{place}: {' '.join(text.split())}" for place, text in problems)
    if not others:
        return first
    shown = "; ".join(others[: SHOWN - 1]) + ("; …" if len(others) >= SHOWN else "")
    return f"{first} (and {len(others)} more: {shown})"


def recipe_message(error: ValidationError, model: type[BaseModel], where: Callable[[KeyPath], str]) -> str:
    """Return the one-line message for an invalid recipe; `where` names the place of a key."""
    lines = []
    for problem in problems(error, model):
        if problem.kind == "unknown":
            known = model_at(model, problem.path[:-1])
            hint = suggest_key(str(problem.path[-1]), known.model_fields) if known else ""
            lines.append((where(problem.path), f"unknown key.{hint}"))
        elif problem.kind == "missing":
            lines.append((where(problem.path[:-1]), f"'{problem.path[-1]}' is missing"))
        else:
            lines.append((where(problem.path), problem.text))
    return in_one_line(lines)


def problems(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Return one problem per key, joining the alternatives of a union by `or`."""
    expected: dict[KeyPath, list[str]] = {}
    values: dict[KeyPath, Any] = {}
    by_path: dict[KeyPath, Problem] = {}
    for detail in error.errors(include_url=False):
        kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
        path = key_path(model, detail["loc"])
        if kind == "too_short" and len(value) >= context["min_length"]:
            continue  # pydantic counts only the valid entries; the invalid ones have their own errors
        if kind == "extra_forbidden":
            by_path.setdefault(path, Problem(path, "unknown", "unknown key"))
        elif kind == "missing":
            by_path.setdefault(path, Problem(path, "missing", "missing"))
        elif isinstance(reason := context.get("error"), Exception):
            path += reason.path if isinstance(reason, KeyPathError) else ()
            by_path.setdefault(path, Problem(path, "value", " ".join(str(reason).split())))
        else:
            expected.setdefault(path, []).append(_expectation(kind, context, detail["msg"]))
            values[path] = path[-1] if detail["loc"][-1:] == ("[key]",) else value
            text = f"expected {' or '.join(dict.fromkeys(expected[path]))}, not {shown(values[path])}"
            by_path[path] = Problem(path, "value", text)
    # Missing keys last, since a misspelled key explains them.
    return sorted(by_path.values(), key=lambda problem: problem.kind == "missing")


def _expectation(kind: str, context: Mapping[str, Any], message: str) -> str:
    """Return what pydantic expected, to follow the word "expected"."""
    if kind in _TYPES:
        return _TYPES[kind]
    if kind in _BOUNDS:
        key, sign = _BOUNDS[kind]
        bound = context[key]
        return f"a number {sign} {bound:g}" if isinstance(bound, float) else f"a number {sign} {bound}"
    if kind in ("literal_error", "enum"):
        choices = str(context["expected"])
        return f"one of {choices}" if choices.count("'") > 2 else choices
    if kind in ("too_short", "string_too_short"):
        unit = "character" if kind == "string_too_short" else "entry"
        return f"at least one {unit}" if context["min_length"] == 1 else f"a length >= {context['min_length']}"
    return message.removeprefix("Input should be ").removeprefix("Value error, ")


def shown(value: Any) -> str:
    """Format a value for a message: short, and as in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, int) and value.bit_length() > 128:
        return "so long a number"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}…"


def key_path(model: type[BaseModel], location: Sequence[Key]) -> KeyPath:
    """Return the keys of a pydantic error's location, without pydantic's tags for union members and keys."""
    keys: list[Key] = []
    annotation: Any = model
    for part in location:
        if part == "[key]":  # the key before it is invalid
            break
        inner = _without_none(annotation)
        if _is_model(inner):
            keys.append(part)
            field = inner.model_fields.get(str(part))
            annotation = field.annotation if field else Any
        elif get_origin(inner) in (dict, Mapping):
            keys.append(part)
            annotation = get_args(inner)[1]
        elif get_origin(inner) in (tuple, list, set, frozenset, Sequence):
            keys.append(part)
            annotation = get_args(inner)[0]
        elif inner is Any:
            keys.append(part)
        else:
            annotation = None  # a tag, and what follows it inside the member
    return tuple(keys)


def model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """Return the model at `path`, or None if there is none (free keys, or a value)."""
    annotation: Any = model
    for key in path:
        inner = _without_none(annotation)
        if _is_model(inner):
            field = inner.model_fields.get(str(key))
            annotation = field.annotation if field else None
        elif get_origin(inner) in (dict, tuple, list):
            annotation = get_args(inner)[1 if get_origin(inner) is dict else 0]
        else:
            return None
    inner = _without_none(annotation)
    return inner if _is_model(inner) else None


def _without_none(annotation: Any) -> Any:
    """Return `X` for `X | None` and `Annotated[X, …]`, and anything else unchanged."""
    if hasattr(annotation, "__metadata__"):
        return _without_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return _without_none(members[0]) if len(members) == 1 else annotation
    return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
