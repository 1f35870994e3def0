"""Rebuild what a disk holds when the power goes at one moment of a recorded run.

The record is that of `shim.c`. A file's content reaches the disk when the file is synced, and a folder's entries when
the folder is. What was not synced is lost; or, with `names_kept`, names are on the disk and contents are not, as on a
file system that writes its folders early.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Node:
    """A file or a folder."""

    is_folder: bool
    entries: dict[str, Node] = field(default_factory=dict)
    """Of a folder, as the process sees them."""
    synced: dict[str, Node] = field(default_factory=dict)
    """Of a folder, as they are on the disk."""
    content: Path | None = None
    """A copy of the file as it was when it was last synced."""


def rebuild(trace: Path, until: int, root: Path, place: Path, *, names_kept: bool) -> None:
    """Write to `place` what is left of the folder `root` when the power goes after call `until`."""
    top = Node(True, synced={})
    for line in (trace / "trace").read_text().splitlines():
        number, kind, path, other = line.split("\t")
        if int(number) > until:
            break
        _replay(top, root, kind, path, other, trace / f"copy-{number}")
    _write(top, place, names_kept=names_kept)


def _replay(top: Node, root: Path, kind: str, path: str, other: str, copy: Path) -> None:
    """Apply one recorded call."""
    if Path(path) == root:
        if kind == "sync folder":
            top.synced = dict(top.entries)
        return
    folder, name = _parent(top, root, path)
    if name not in folder.entries and kind not in ("create", "mkdir"):
        _adopt(folder, name)
    if kind in ("create", "mkdir"):
        folder.entries[name] = Node(kind == "mkdir")
    elif kind == "unlink":
        del folder.entries[name]
    elif kind == "sync":
        folder.entries[name].content = copy
    elif kind == "sync folder":
        folder.entries[name].synced = dict(folder.entries[name].entries)
    elif kind in ("rename", "link"):
        target, new = _parent(top, root, other)
        target.entries[new] = folder.entries[name]
        if kind == "rename":
            del folder.entries[name]


def _adopt(folder: Node, name: str) -> None:
    """Give `name` to the newest temporary file: safetensors renames it by a system call that no library sees."""
    newest = next(entry for entry in reversed(folder.entries) if entry.startswith(".tmp"))
    folder.entries[name] = folder.entries.pop(newest)


def _parent(top: Node, root: Path, path: str) -> tuple[Node, str]:
    *folders, name = Path(path).relative_to(root).parts
    node = top
    for part in folders:
        node = node.entries[part]
    return node, name


def _write(node: Node, place: Path, *, names_kept: bool) -> None:
    if node.is_folder:
        place.mkdir()
        for name, child in (node.entries if names_kept else node.synced).items():
            _write(child, place / name, names_kept=names_kept)
    elif node.content is None:
        place.touch()
    else:
        shutil.copyfile(node.content, place)
