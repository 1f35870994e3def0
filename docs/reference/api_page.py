"""Writes `api.md`, the list of public names, from the code: `python docs/reference/api_page.py`.

`--release` writes `api-released.txt` instead: the names as of a release. Until the next release, each added, removed or
changed name has to be announced in an unreleased section of `CHANGELOG.md`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

PAGE = Path(__file__).with_name("api.md")
RELEASED = Path(__file__).with_name("api-released.txt")
CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"

PUBLIC: dict[str, tuple[str, ...]] = {
    "hft_core": (),
    "hft_core.recipe": (),
    "hft_core.predict": (),
    "hft_core.search": (),
    "hft_core.active_learning": (),
    "hft_core.data": (),
    "hft_core.events": (),
    "hft_core.cli.progress": ("Lines", "Bars"),
    "hft_core.runtime.run_lock": ("RunLock",),
    "hft_core.hooks": ("SeamHooks", "LifecycleHooks"),
    "hft_core.options": ("BackboneOptions", "LocalPath", "Options"),
    "hft_core.backbone": (),
    "hft_core.head": (),
    "hft_core.strategy": (),
    "hft_core.combiner": (),
    "hft_core.tracker": ("Scalar", "TrackedRun", "Tracker"),
    "hft_core.launcher": (),
    "hft_core.file_guard": ("open_regular", "folder_problem", "special_file", "outside_link"),
    "hft_core.forward_override": (),
    "hft_core.cpu_dropout": (),
    "hft_core.testing": (),
}
"""The modules that others may import, and their public names; without any, all those without an underscore."""

MADE_BY_HFT = ("Catalogue", "Index", "Session")
"""Classes whose objects come from a function: how they are made is not public."""

INTRODUCTION = """\
# Public names

The names that hosts and plugins may import. Changes are announced in the [changelog](../../CHANGELOG.md); anything not
listed here may change at any time. All names are annotated (`py.typed`).

For hosts: [Use in Python](../how-to/use-in-python.md). For plugins: [Hooks](hooks.md). The keys of a recipe:
[Recipe](recipe.md).

This page is written by `docs/reference/api_page.py`; a test compares them.
"""


def page() -> str:
    """The text of `api.md`."""
    parts = [INTRODUCTION]
    for module in PUBLIC:
        parts.append(f"## `{module}`\n\n{_sentence(importlib.import_module(module))}\n")
        parts += [_entry(name, value) for name, value in names_of(module)]
    return "\n".join(parts)


def names_of(module: str) -> list[tuple[str, Any]]:
    """The public names of a module and what they mean."""
    loaded = importlib.import_module(module)
    chosen = PUBLIC[module] or getattr(loaded, "__all__", None)
    if chosen is None:
        mine = [name for name, value in vars(loaded).items() if getattr(value, "__module__", "") == module]
        chosen = [name for name in mine if not name.startswith("_")]
    return [(name, getattr(loaded, name)) for name in chosen]


def lines() -> list[str]:
    """Every public name with its signature, sorted: what a release writes down."""
    found = []
    for module in PUBLIC:
        for name, value in names_of(module):
            found.append(f"{module}:{_signed(name, value)}")
            found += [f"{module}:{name}.{signed}" for signed, _ in _members(value)]
    return sorted(found)


def announcements(changelog: str) -> str:
    """Return the sections of the changelog that are not released: those whose heading has no date."""
    sections = re.split(r"^(?=## \[)", changelog, flags=re.MULTILINE)[1:]
    return "".join(
        section for section in sections if not re.match(r"## \[.*\] - \d{4}-\d{2}-\d{2}$", section, re.MULTILINE)
    )


def unannounced(released: list[str], now: list[str], announcements: str) -> list[str]:
    """Return the names that were added, removed or changed since the release and are not mentioned in `announcements`.

    A name is mentioned as `` `Head.learn` `` or `hft_core.head.Head.learn`; a mentioned class covers its members.
    """
    changed = {_bare(line) for line in {*released} ^ {*now}}
    mentioned = {(module, name) for module, name in changed if _is_mentioned(module, name, announcements)}
    silent = [
        (module, name) for module, name in changed - mentioned if (module, name.partition(".")[0]) not in mentioned
    ]
    return sorted(f"{module}.{name}" for module, name in silent)


def _bare(line: str) -> tuple[str, str]:
    """Module and name of a line."""
    module, _, signed = line.partition(":")
    return module, re.split(r"[^\w.]", signed)[0]


def _is_mentioned(module: str, name: str, announcements: str) -> bool:
    return re.search(rf"(`|\b{re.escape(module)}\.){re.escape(name)}(?![\w.]*\w)", announcements) is not None


def _entry(name: str, value: Any) -> str:
    """One name on the page, with its members."""
    members = list(_members(value))
    if isinstance(value, type) and issubclass(value, BaseModel):
        listed = ["Fields: " + ", ".join(f"`{field}`" for field, _ in members)] if members else []
    else:
        listed = [f"- `{signed}`{_after(sentence)}" for signed, sentence in members]
    first = f"**`{_signed(name, value)}`**{_after(_sentence(value))}"
    return "\n".join([first, *(["", *listed] if listed else []), ""])


def _after(sentence: str) -> str:
    return f": {sentence}" if sentence else ""


def _signed(name: str, value: Any) -> str:
    """The name as it is called; of exceptions and models, whose fields are listed by themselves, what they are."""
    if isinstance(value, type):
        if issubclass(value, BaseException | BaseModel | Enum):
            return f"{name}({value.__mro__[1].__name__})"
        plain = name in MADE_BY_HFT or value.__init__ is object.__init__
        return name if plain else f"{name}{_arguments(value)}"
    return f"{name}{_arguments(value)}" if inspect.isroutine(value) else name


class _Text:
    """An annotation or a default that is written as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _arguments(value: Any) -> str:
    """The signature without `self`, its annotations as they are in the code. A default that is an object is `...`: no
    address gets into the list."""
    signature = inspect.signature(value)
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if isinstance(parameter.annotation, str):
            parameter = parameter.replace(annotation=_Text(parameter.annotation))
        if parameter.default is not parameter.empty and repr(parameter.default).startswith("<"):
            parameter = parameter.replace(default=_Text("..."))
        parameters.append(parameter)
    returned: Any = signature.return_annotation
    returned = _Text(returned) if isinstance(returned, str) and returned != "None" else signature.empty
    return str(signature.replace(parameters=parameters, return_annotation=returned))


def _members(value: Any) -> Iterator[tuple[str, str]]:
    """Signature and first sentence of each public member that a class itself defines. A dataclass has its fields in its
    signature."""
    if not isinstance(value, type) or issubclass(value, BaseException):
        return
    if issubclass(value, BaseModel):
        inherited = value.__mro__[1]
        yield from ((name, "") for name in value.model_fields if name not in getattr(inherited, "model_fields", {}))
        return
    fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
    for name in dict.fromkeys([*vars(value).get("__annotations__", ()), *vars(value)]):
        if name.startswith("_") or name in fields:
            continue
        member = vars(value).get(name)
        inner = getattr(member, "__func__", member)
        if inspect.isroutine(inner):
            yield f"{name}{_arguments(inner)}", _sentence(inner)
        else:
            yield name, _sentence(member) if isinstance(member, property) else ""


def _sentence(value: Any) -> str:
    """The first sentence of a docstring; what Python makes up (a dataclass's signature, a value's type) is none.

    Of an annotated type, the description that a field of it has.
    """
    if get_origin(value) is Annotated:
        return next((part.description for part in get_args(value) if getattr(part, "description", None)), "")
    if not (inspect.ismodule(value) or callable(value) or isinstance(value, property)):
        return ""
    text = inspect.getdoc(value) or ""
    if text.startswith(f"{getattr(value, '__name__', '')}("):
        return ""
    return re.split(r"(?<=\.)\s", " ".join(text.split("\n\n")[0].split()))[0].removesuffix("::")


if __name__ == "__main__":
    if "--release" in sys.argv:
        RELEASED.write_text("\n".join(lines()) + "\n", encoding="utf-8")
    else:
        PAGE.write_text(page(), encoding="utf-8")
