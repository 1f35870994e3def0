"""Read strict YAML into plain data with the line of each key.

Scalars follow YAML 1.2's core schema (only true and false are booleans, `1e-4` is a number, `no` and `12:30` are text).
Duplicate keys, anchors, aliases, merge keys, tags, and files that are too large or too deep are refused.

ruamel.yaml would save no code: its resolver also accepts dates, `1_000` and `0b1`, and aliases, tags, merge keys, depth
and non-text keys have to be refused by hand all the same.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml

from hft_core.errors import RecipeError, did_you_mean
from hft_core.file_guard import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
MAX_BYTES = 1 << 20
MAX_DEPTH = 32

KeyPath = tuple[str | int, ...]

SCALARS = {
    "null": re.compile(r"(~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
    ),
}
"""Plain scalars by kind; the first match wins, and anything else is text."""


@dataclass(frozen=True)
class Source:
    """Plain data and the place of each key."""

    data: dict[str, Any]
    name: str
    """Its name in messages: a file name, or `recipe`."""
    folder: Path
    """The folder that relative paths start from."""
    places: Mapping[KeyPath, str] = field(default_factory=dict)
    """The place of each written key path: `line 12`, a flag (`--set a.b=c`), or an empty string."""

    @classmethod
    def of(cls, data: dict[str, Any], name: str = "recipe", folder: Path | None = None) -> Source:
        """Wrap data that was not read from a file. Paths start from `folder`, or from the working directory.

        Raises `RecipeError` for text that cannot be encoded.
        """
        places: dict[KeyPath, str] = {}
        for path, value in _items(data, ()):
            places[path] = ""
            for text in (*path[-1:], value):
                if isinstance(text, str) and _SURROGATE.search(text):
                    raise RecipeError(f"{name}: {text!a} is not valid text: it contains half of a surrogate pair")
        return cls(data, name, folder or Path.cwd(), places)

    def where(self, key_path: KeyPath) -> str:
        """Return the place of a key (`recipe.yaml, line 12, stages.0.learning_rate`), or of its nearest parent."""
        written, _ = self.written(key_path)
        place = self.places.get(written, "")
        if place.startswith("--"):  # a flag
            return place
        dotted = " ".join(".".join(map(str, written)).split())  # a quoted key may contain line breaks
        return ", ".join(part for part in (self.name, place, dotted) if part)

    def written(self, key_path: KeyPath) -> tuple[KeyPath, KeyPath]:
        """Return the existing part of a key path as the source spells it, and the missing keys.

        `key_path` is spelled as in the recipe's models, without short forms.
        """
        written: KeyPath = ()
        for i, key in enumerate(key_path):
            path = next((path for path in _spellings(written, key) if path in self.places), None)
            if path is not None:
                written = path
            elif not _is_implied(written, key, self.places):
                return written, key_path[i:]
        return written, ()


def _spellings(parent: KeyPath, key: str | int) -> Iterator[KeyPath]:
    """Yield the ways to write a key below `parent`, including short forms."""
    yield (*parent, key)
    yield (*parent, "options", key)
    if key in ("num_train_epochs", "epochs"):
        yield (*parent, "epochs" if key == "num_train_epochs" else "num_train_epochs")
    if len(parent) == 3 and parent[0] == "tasks" and parent[2] == "head":
        yield (*parent[:2], key)
    if len(parent) == 2 and parent[0] == "tasks":
        yield (*parent, "head", key)
        yield (*parent, "head", "options", key)


def _is_implied(parent: KeyPath, key: str | int, places: Mapping[KeyPath, str]) -> bool:
    """Return whether a short form leaves the key out: options beside the type, a single stage, files without a key."""
    return key == "options" or (parent, key) == (("stages",), 0) or (key == "files" and (*parent, 0) in places)


def read(path: str | Path) -> Source:
    """Read a recipe file. Raises `RecipeError` with file and line."""
    path = Path(path)
    if path.is_dir():
        raise RecipeError(f"{path}: expected a recipe file (YAML), not a folder")
    try:
        with _opened(path) as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = (p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else ()
        raise RecipeError(f"{path}: there is no such recipe file.{did_you_mean(path.name, near)}") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        if len(content) <= MAX_BYTES:
            raise RecipeError(f"{path}, line {line}: not valid UTF-8; save the file as UTF-8") from None
        text = content.decode("utf-8-sig", errors="replace")  # cut inside a character; refused below for its size
    return parse(text, str(path), path.absolute().parent)


def _opened(path: Path) -> BinaryIO:
    """Open a recipe: a regular file, or a stream that the user's shell opened (`/dev/stdin`, `<(…)`)."""
    return path.open("rb") if str(path).startswith(STREAMS) else open_regular(path)


def parse(text: str, name: str, folder: Path | None = None) -> Source:
    """Parse a recipe's YAML text; `name` is its name in messages. Raises `RecipeError` with name and line."""
    places: dict[KeyPath, str] = {}
    data = _compose(text, name, places)
    if data is None:
        raise RecipeError(f"{name}: is empty; a recipe has 'backbone', 'tasks' and 'stages'")
    if not isinstance(data, dict):
        shown = "a list" if isinstance(data, list) else f"'{' '.join(str(data).split())[:40]}'"
        raise RecipeError(f"{name}, line 1: expected a mapping with 'backbone', 'tasks' and 'stages', not {shown}")
    return Source(data, name, folder or Path.cwd(), places)


def parse_value(text: str, name: str) -> Any:
    """Parse one YAML value (`3e-4`, `[a, b]`). Raises `RecipeError` that starts with `name`."""
    try:
        return _compose(text, name, {})
    except RecipeError as error:
        raise RecipeError(str(error).replace(f"{name}, line 1: ", f"{name}: ")) from None


def absolute(path: str, folder: Path) -> str:
    """Resolve `path` from `folder`. If it has wildcards, those in the folder's own name are escaped."""
    if "://" in path:
        return path
    expanded = os.path.expanduser(path)  # noqa: PTH111 (pathlib's raises for an unknown user)
    return str(Path(glob.escape(str(folder)) if glob.has_magic(path) else folder, expanded))


def existing(path: str, folder: Path) -> str:
    """Resolve `path` from `folder` if it exists; otherwise return it unchanged (it may be a hub id)."""
    resolved = Path(folder, os.path.expanduser(path))  # noqa: PTH111
    return str(resolved) if path and os.path.exists(resolved) else path  # noqa: PTH110 (pathlib's raises for a long name)


def _items(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Yield all values in plain data with their key paths."""
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, inner in items:
        yield from _items(inner, (*path, key))


_SURROGATE = re.compile("[\ud800-\udfff]")
"""Surrogates, which are no characters on their own."""


class _RefusedError(Exception):
    """Valid YAML that is not allowed in a recipe."""

    def __init__(self, mark: yaml.Mark, problem: str) -> None:
        super().__init__(problem)
        self.line = mark.line + 1


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Composes nodes; refuses anchors, aliases, tags and deep nesting before building data."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        if event.anchor is not None:
            raise _RefusedError(
                event.start_mark, "anchors and aliases (& and *) are not allowed; quote text that starts so"
            )
        if event.tag is not None:
            raise _RefusedError(
                event.start_mark, f"tags ({event.tag}) are not allowed; quote text that starts with '!'"
            )
        if self.depth >= MAX_DEPTH:
            raise _RefusedError(event.start_mark, f"nested more than {MAX_DEPTH} levels deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _compose(text: str, name: str, places: dict[KeyPath, str]) -> Any:
    if len(text.encode("utf-8", errors="replace")) > MAX_BYTES:
        raise RecipeError(f"{name}: larger than {MAX_BYTES >> 20} MiB, which no recipe is")
    try:
        node = _Loader(text).get_single_node()
        return None if node is None else _build(node, (), places)
    except _RefusedError as error:
        raise RecipeError(f"{name}, line {error.line}: {' '.join(str(error).split())}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"{name}, line {line}: the character U+{ord(text[error.position]):04X} is not allowed"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RecipeError(f"{name}, line {line}: not valid YAML: {_plain(error)}") from None


def _plain(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join(str(error.problem or error.context).split())
    if "'\\t'" in problem:
        return "a tab where YAML expects blanks"
    if "mapping values are not allowed" in problem:
        return "a second ': ' in one line, or a wrong indentation; quote text that contains ': '"
    if problem == "but found another document":
        return "a second document ('---'); a recipe is one document"
    return f"{error.context}, {problem}" if error.context and error.problem else problem


def _build(node: yaml.Node, path: KeyPath, places: dict[KeyPath, str]) -> Any:
    """Build plain data from a node and add the line of every key and list entry to `places`."""
    places.setdefault(path, f"line {node.start_mark.line + 1}" if path else "")
    if isinstance(node, yaml.SequenceNode):
        return [_build(inner, (*path, i), places) for i, inner in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    data: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, inner in node.value:
        key, line = _key(key_node), key_node.start_mark.line + 1
        if key in lines:
            raise _RefusedError(key_node.start_mark, f"the key '{key}' is given twice (first in line {lines[key]})")
        lines[key] = line
        places[*path, key] = f"line {line}"
        data[key] = _build(inner, (*path, key), places)
    return data


def _key(node: yaml.Node) -> str:
    """Return a key as its text, so that `on`, `no` and `1` are ordinary keys."""
    if not isinstance(node, yaml.ScalarNode) or not node.value:
        raise _RefusedError(node.start_mark, "expected a key that is one word of text")
    if node.value == "<<" and node.style is None:
        raise _RefusedError(node.start_mark, "merge keys (<<) are not allowed; write the keys out")
    return _joined(node)


def _joined(node: yaml.ScalarNode) -> str:
    """Return a scalar's text, with each pair of surrogates, as JSON writes rare characters, joined to one."""
    text = str(node.value)
    if not _SURROGATE.search(text):
        return text
    try:
        return text.encode("utf-16-le", errors="surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise _RefusedError(node.start_mark, f"{text!a} is not valid text: it contains half of a pair") from None


def _scalar(node: yaml.ScalarNode) -> Any:
    text = _joined(node)
    kind = next((kind for kind, form in SCALARS.items() if form.match(text)), "text")
    if node.style is not None or kind == "text":
        return text
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if len(text) > 100:
        raise _RefusedError(node.start_mark, "a number of more than 100 digits")
    return int(text, 0 if text[:2] in ("0o", "0x") else 10)
