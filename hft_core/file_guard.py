"""Refuse links that lead out of a folder, and files that are not regular, in what a stranger may have made; light.

A folder of a model, a run or data comes from anywhere. Reading a link in it would read, and perhaps copy into a run
that is published, a file that its author chose; a named pipe makes its reader wait, and a device never ends.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

MOST_FILES = 100_000
"""A folder of more files and folders than this is refused."""
HUB_FILES, HUB_REVISIONS = "blobs", "snapshots"
"""Of a model in the hub's cache: the folders of its files, and of its revisions, which are links to them."""
KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


class NotRegularError(OSError):
    """A path is not one of a regular file; `strerror` says what it is."""

    def __init__(self, path: str | Path, kind: str) -> None:
        super().__init__(errno.EINVAL, f"it is {kind}, expected a regular file", str(path))


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading bytes. Raises `OSError`; never waits for a writer."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise NotRegularError(path, _kind(mode))
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def special_file(path: str | Path) -> str:
    """Say what `path` is when it is neither a regular file nor a folder, nor a link to one; empty otherwise, also where
    nothing is."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # nothing there, or no path at all
        return ""
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else f"{path} is {_kind(mode)}, expected a regular file"


def outside_link(path: str | Path, folder: str | Path) -> str:
    """Say where the link `path` in `folder` leads when that is out of the folder; empty for anything else.

    A revision of the hub's cache may lead to the files beside it.
    """
    root, target = os.path.realpath(folder), os.path.realpath(path)
    if any(_is_below(target, allowed) for allowed in (root, *_hub_files(root))):
        return ""
    return (
        f"{path} is a link out of the folder, to {target}: copy that file into it, or name the folder that holds the "
        "file itself"
    )


def folder_problem(folder: str | Path) -> str:
    """Return why nothing below `folder` may be opened: the first link out of it, special file, or folder that cannot be
    read; empty when all is well, and for a path that is no folder. Hidden folders (`.git`) are not looked at."""
    if not os.path.isdir(folder):
        return special_file(folder)
    try:
        for count, path in enumerate(_below(os.fspath(folder))):
            problem = outside_link(path, folder) if os.path.islink(path) else ""
            problem = problem or special_file(path)
            if count >= MOST_FILES:
                problem = f"{folder} holds more than {MOST_FILES:,} files: name the folder that holds these alone"
            if problem:
                return problem
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror or error}"
    return ""


def _below(folder: str) -> Iterator[str]:
    """Yield every path below a folder, the links among them without what is below those."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if not (entry.name.startswith(".") and entry.is_dir()):
            yield entry.path
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path)


def _hub_files(folder: str) -> Iterator[str]:
    """Yield the folder of files beside each folder of revisions that `folder` lies in. It is not resolved: if it is a
    link itself, what it leads to is elsewhere."""
    path = Path(folder)
    for parent in path.parents:
        if parent.name == HUB_REVISIONS:
            yield str(parent.parent / HUB_FILES)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _kind(mode: int) -> str:
    return next((name for is_kind, name in KINDS if is_kind(mode)), "a special file")
