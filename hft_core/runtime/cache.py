"""Cache files for later runs: entries are published atomically and evicted by least recent use; light.

An entry is a folder of files with a manifest of their sizes and hashes. It is filled under a temporary name and
published by a rename. A cache that has no folder, is read-only, full or damaged is not an error: the caller computes
again.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hft_core.errors import UsageError
from hft_core.runtime import cache_entry
from hft_core.runtime.locks import locked

PLACE, SIZE = "HFT_CACHE", "HFT_CACHE_SIZE"
"""The environment variables that name the folder, and the upper bound of all entries together."""
DEFAULT_LIMIT = 20 << 30
"""That bound in bytes, where nothing is said."""
TOKENS, ACTIVATIONS = "tokens", "activations"
KINDS = (TOKENS, ACTIVATIONS)
"""The kinds of entries: each has a folder of this name."""
MANIFEST = cache_entry.MANIFEST
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([KMGT]B)?", re.IGNORECASE)


def folder() -> Path | None:
    """Return the folder of all caches: `$HFT_CACHE`, or `hft` in the user's cache folder; None where the system knows
    of no home folder for this user (a container's, say)."""
    beside = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = os.path.expanduser(os.environ.get(PLACE) or os.path.join(beside, "hft"))  # noqa: PTH111 (pathlib's raises)
    return None if place.startswith("~") else Path(place)


def parse_size(text: str, origin: str) -> int:
    """Return the bytes that `text` (`20GB`, `500 MB`, `0`) says. Raises `UsageError` that begins with `origin`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{origin}: '{text[:40]}' is not a size; expected one such as 20GB, 500MB or a number of bytes"
        )
    return int(float(match[1]) * UNITS[(match[2] or "").upper()])


def limit() -> int:
    """Return the upper bound in bytes of all entries: `$HFT_CACHE_SIZE`, or 20 GiB. Raises `UsageError`."""
    text = os.environ.get(SIZE, "")
    return parse_size(text, f"the environment variable {SIZE}") if text.strip() else DEFAULT_LIMIT


class Cache:
    """The entries of one kind."""

    def __init__(self, kind: str) -> None:
        """Raises `UsageError` where the environment's limit is no size."""
        place = folder()
        self.folder = None if place is None else place / kind
        self.limit = limit()

    def find(self, key: str, *, rows: int | None = None) -> Path | None:
        """Return the entry's folder and mark it as used; None without one.

        One that is damaged, or has another number of rows, is removed.
        """
        if self.folder is None:
            return None
        place = self.folder / key
        if not os.path.lexists(place):
            return None
        if cache_entry.problem(place, rows):
            cache_entry.remove(place)
            return None
        cache_entry.mark_used(place)
        return place

    @contextmanager
    def filling(self, key: str) -> Iterator[Path | None]:
        """Yield a new folder to be filled and passed to `publish`; it is removed at the end if it was not published.

        One process fills an entry at a time, and the others wait here: call `find` again inside. Yields None where the
        cache cannot be written to.
        """
        with ExitStack() as stack:
            partial = None
            try:
                if self.folder is not None:
                    self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                    stack.enter_context(locked(self.folder / f".{key}.lock", wait=True))
                    partial = cache_entry.partial(self.folder / key)
                    partial.mkdir()
            except OSError:
                partial = None
            try:
                yield partial
            finally:
                if partial is not None:
                    shutil.rmtree(partial, ignore_errors=True)

    def publish(self, partial: Path, key: str, *, rows: int) -> Path:
        """Publish the filled folder `partial`, which holds so many rows, as the entry `key`, and return its path.

        Raises `OSError`.
        """
        assert self.folder is not None
        cache_entry.write_manifest(partial, rows)
        place = self.folder / key
        try:
            os.rename(partial, place)
        except OSError:
            if cache_entry.problem(place, rows):  # not one that another process published meanwhile
                raise
        evict(self.folder.parent, self.limit, keep=place)
        return place


@dataclass(frozen=True, order=True)
class Entry:
    """An entry of any kind."""

    last_use: float
    """Seconds since 1970."""
    size: int
    """In bytes."""
    path: Path


def entries(root: Path) -> list[Entry]:
    """Return the entries of all kinds below the cache folder `root`, the least recently used first."""
    found = []
    for path in _paths(root):
        with suppress(OSError):  # another process may remove it meanwhile
            if not path.name.startswith("."):
                found.append(Entry(cache_entry.last_use(path), cache_entry.size(path), path))
    return sorted(found)


def evict(root: Path, limit: int, *, keep: Path | None = None) -> list[Entry]:
    """Remove and return the least recently used entries above `limit` bytes in all, except `keep`; remove partial ones
    that killed processes left."""
    for path in _paths(root):
        with suppress(OSError):
            if path.name.startswith(".") and cache_entry.is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
    found = entries(root)
    total, removed = sum(entry.size for entry in found), []
    for entry in found:
        if total > limit and entry.path != keep and cache_entry.remove(entry.path):
            total -= entry.size
            removed.append(entry)
    return removed


def _paths(root: Path) -> Iterator[Path]:
    for kind in KINDS:
        with suppress(OSError):
            yield from list((root / kind).iterdir())
