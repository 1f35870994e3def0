"""Write and check an entry of a cache: a folder with files and a manifest of their sizes, hashes and rows; light."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from hft_core.file_guard import open_regular
from hft_core.runtime.files import file_hash

MANIFEST = "manifest.json"
MANIFEST_BYTES = 1 << 22
"""A larger manifest is damaged."""
FORMAT = 2
ABANDONED = 86_400.0
"""Seconds after which a partial entry of a killed process is removed."""


def write_manifest(entry: Path, rows: int) -> None:
    """List the files of the filled folder `entry`, which hold so many rows. Raises `OSError`."""
    files = {path.name: {"size": path.stat().st_size, "sha256": file_hash(path)} for path in entry.iterdir()}
    manifest = {"format": FORMAT, "rows": rows, "files": files}
    (entry / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def problem(entry: Path, rows: int | None = None) -> str:
    """Return in what the entry differs from its manifest, or holds another number of rows than `rows`; empty if sound.

    Sound is an entry with exactly the files of its manifest, at least one, each regular and as it was written.
    """
    try:
        if not stat.S_ISDIR(entry.lstat().st_mode):
            return "it is not a folder"
        manifest = _manifest(entry)
        files = manifest["files"]
        found = {path.name for path in entry.iterdir()} - {MANIFEST}
        if not files or found != files.keys():
            odd = sorted(found ^ files.keys())
            return f"the file {odd[0]} is missing or not in the manifest" if odd else "it has no files"
        if rows is not None and manifest["rows"] != rows:
            return f"it has {manifest['rows']} rows, expected {rows}"
        return next((f"the file {name} is not as it was written" for name in files if _differs(entry, name, files)), "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"its manifest cannot be read: {type(error).__name__}"


def rows(entry: Path) -> int:
    """Return the number of rows in a sound entry. Raises `OSError` where another process has removed it."""
    return int(_manifest(entry)["rows"])


def size(entry: Path) -> int:
    """Return the bytes of all files of an entry. Raises `OSError`."""
    if not stat.S_ISDIR(entry.lstat().st_mode):
        return entry.lstat().st_size
    return sum(path.lstat().st_size for path in entry.iterdir())


def last_use(entry: Path) -> float:
    """Return when the entry was last used, in seconds since 1970; of one without a manifest, when it was made. Raises
    `OSError`."""
    try:
        return (entry / MANIFEST).lstat().st_mtime
    except OSError:
        return entry.lstat().st_mtime


def mark_used(entry: Path) -> None:
    """Let the entry be the most recently used one."""
    with suppress(OSError):  # a cache that may only be read
        os.utime(entry / MANIFEST)


def remove(entry: Path) -> bool:
    """Remove an entry, or whatever is in its place, atomically; processes that have its files mapped keep them. Returns
    whether this was possible."""
    away = partial(entry)
    try:
        os.rename(entry, away)
    except OSError:  # another process was faster, or the cache may only be read
        return False
    if away.is_dir() and not away.is_symlink():
        shutil.rmtree(away, ignore_errors=True)
    else:
        with suppress(OSError):
            away.unlink()
    return True


def partial(entry: Path) -> Path:
    """Return a new hidden name beside an entry."""
    return entry.with_name(f".{entry.name}.{uuid.uuid4().hex[:8]}")


def is_abandoned(path: Path) -> bool:
    """Return whether the hidden folder `path` is what a killed process left. Raises `OSError`."""
    return path.is_dir() and time.time() - path.lstat().st_mtime > ABANDONED


def _manifest(entry: Path) -> dict[str, Any]:
    with open_regular(entry / MANIFEST) as file:
        manifest: dict[str, Any] = json.loads(file.read(MANIFEST_BYTES))
    if manifest["format"] != FORMAT:
        raise ValueError("it is of another version")
    return manifest


def _differs(entry: Path, name: str, files: dict[str, Any]) -> bool:
    status = (entry / name).lstat()
    facts = files[name]
    return (
        not stat.S_ISREG(status.st_mode)
        or status.st_size != facts["size"]
        or file_hash(entry / name) != facts["sha256"]
    )
