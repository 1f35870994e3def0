"""Writes `hooks.md` from the docstrings of the code: `python docs/reference/hooks_page.py`."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from textwrap import dedent

from hft_core import events, specs
from hft_core.hooks import LifecycleHooks, SeamHooks

PAGE = Path(__file__).with_name("hooks.md")

INTRODUCTION = """\
# Hooks

The functions that a plugin module may implement, each marked with `hft_core.hookimpl`. Arguments may be omitted. A
marked function with an unknown name or unknown arguments makes the plugin `broken`, with the reason in `hft
list-plugins`.

This page is written by `docs/reference/hooks_page.py` from the docstrings; a test compares them.

## Seams

Called when plugins are listed or a recipe is resolved, not during training. Each returns a list of specs with import
strings (`"package.module:attribute"`), which are imported at first use.
"""
SPECS_INTRODUCTION = """\
## Specs

Frozen dataclasses of `hft_core`. An invalid field raises `ValueError`, and the plugin is listed as `broken`.
"""


def page() -> str:
    """The text of `hooks.md`."""
    parts = [INTRODUCTION]
    parts += [_hook(name, function) for name, function in hooks_of(SeamHooks)]
    parts += [SPECS_INTRODUCTION, _table("Spec: every seam", specs, specs.Spec)]
    parts += [_table(spec.__name__, specs, spec) for spec in specs.SEAMS.values() if _fields(specs, spec)]
    parts += ["## Events of a run\n", _text(inspect.getdoc(LifecycleHooks) or "")]
    for name, function in hooks_of(LifecycleHooks):
        event = getattr(events, str(inspect.signature(function).parameters["event"].annotation).rpartition(".")[2])
        parts += [_hook(name, function), _table(event.__name__, events, event)]
    return "\n".join(parts)


def hooks_of(group: type) -> list[tuple[str, object]]:
    """Names and functions of the hooks of one group."""
    return [(name, value) for name, value in vars(group).items() if name.startswith("hft_")]


def signature(name: str, function: object) -> str:
    """A hook as its heading has it: `hft_run_started(event)`."""
    arguments = [argument for argument in inspect.signature(function).parameters if argument != "self"]  # type: ignore[arg-type]
    return f"{name}({', '.join(arguments)})"


def _hook(name: str, function: object) -> str:
    return f"### `{signature(name, function)}`\n\n{_text(inspect.getdoc(function) or '')}"


def _text(docstring: str) -> str:
    """A docstring as Markdown: what follows a `::` and is indented is code."""
    blocks: list[str] = []
    language = ""
    for block in re.split(r"\n\n(?=\S)|(?<=::)\n\n", docstring):
        if language and block.startswith(" "):
            blocks.append(f"```{language}\n{dedent(block).rstrip()}\n```")
            language = ""
            continue
        if block.endswith("::"):
            language = "python" if block == "Example::" else "text"
            block = block[:-1]
        blocks.append(block)
    return "\n\n".join(blocks) + "\n"


def _table(title: str, module: object, kind: type) -> str:
    rows = [f"| `{name}` | `{annotation}` | {meaning} |" for name, annotation, meaning in _fields(module, kind)]
    return "\n".join([f"**{title}**\n", "| field | type | meaning |", "| --- | --- | --- |", *rows]) + "\n"


def _fields(module: object, kind: type) -> list[tuple[str, str, str]]:
    """Name, type and docstring of the fields that the dataclass `kind` adds to its base."""
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__).body
    found = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or "ClassVar" in ast.unparse(node.annotation):
            continue
        documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        meaning = " ".join(str(after.value.value).split()) if documented else ""  # type: ignore[union-attr, attr-defined]
        found.append((ast.unparse(node.target), ast.unparse(node.annotation).replace("|", "\\|"), meaning))
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
