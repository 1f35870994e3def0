"""Cache files for later runs: entries are published atomically and evicted by least recent use.

An entry is a folder of files with a manifest of their sizes and hashes. It is filled under a temporary name and
published by a rename. A cache that is read-only, full or damaged is not an error: the caller computes again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hft_core.runtime.files import file_hash
from hft_core.runtime.locks import locked

PLACE = "HFT_CACHE"
"""The environment variable that names the folder."""
LIMIT = 10 << 30
"""Upper bound in bytes of all entries of one kind."""
ABANDONED = 86_400.0
"""Seconds after which a partial entry of a killed process is removed."""
MANIFEST = "manifest.json"


def folder() -> Path:
    """Return the folder of all caches: `$HFT_CACHE`, or `hft` in the user's cache folder."""
    own = os.environ.get(PLACE)
    beside = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own or os.path.join(beside, "hft")).expanduser()


class Cache:
    """The entries of one kind."""

    def __init__(self, kind: str, *, limit: int = LIMIT) -> None:
        self.folder = folder() / kind
        self.limit = limit

    def find(self, key: str) -> Path | None:
        """Return the entry's folder and mark it as used; None without one. Damaged ones are removed."""
        place = self.folder / key
        if not place.is_dir():
            return None
        if not _is_sound(place):
            self._remove(place)
            return None
        with suppress(OSError):  # a cache that may only be read
            os.utime(place / MANIFEST)
        return place

    @contextmanager
    def filling(self, key: str) -> Iterator[Path | None]:
        """Yield a new folder to be filled and passed to `publish`; it is removed at the end if it was not published.

        One process fills an entry at a time, and the others wait here: call `find` again inside. Yields None where the
        cache cannot be written to.
        """
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                stack.enter_context(locked(self.folder / f".{key}.lock", wait=True))
            except OSError:
                yield None
                return
            partial = self.folder / f".{key}.{uuid.uuid4().hex[:8]}"
            try:
                partial.mkdir()
                yield partial
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def publish(self, partial: Path, key: str) -> Path:
        """Publish the filled folder `partial` as the entry `key`, and return its path. Raises `OSError`."""
        files = {path.name: {"size": path.stat().st_size, "sha256": file_hash(path)} for path in partial.iterdir()}
        (partial / MANIFEST).write_text(json.dumps(files), encoding="utf-8")
        place = self.folder / key
        try:
            os.rename(partial, place)
        except OSError:
            if not _is_sound(place):  # not one that another process published meanwhile
                raise
        self._trim(place)
        return place

    def _trim(self, newest: Path) -> None:
        """Remove the least recently used entries above the limit, and abandoned partial ones."""
        used: list[tuple[float, int, Path]] = []
        for entry in self.folder.iterdir():
            with suppress(OSError):  # another process may remove it meanwhile
                if entry.name.startswith("."):
                    if entry.is_dir() and time.time() - entry.stat().st_mtime > ABANDONED:
                        shutil.rmtree(entry, ignore_errors=True)
                    continue
                size = sum(path.stat().st_size for path in entry.iterdir())
                used.append(((entry / MANIFEST).stat().st_mtime, size, entry))
        total = sum(size for _, size, _ in used)
        for _, size, entry in sorted(used):
            if total <= self.limit:
                break
            if entry != newest:
                self._remove(entry)
                total -= size

    def _remove(self, place: Path) -> None:
        """Remove an entry atomically; processes that have its files mapped keep them."""
        away = self.folder / f".{place.name}.{uuid.uuid4().hex[:8]}"
        with suppress(OSError):  # another process was faster, or the cache may only be read
            os.rename(place, away)
            shutil.rmtree(away, ignore_errors=True)


def _is_sound(place: Path) -> bool:
    """Return whether the entry has all of its files as they were written."""
    try:
        files = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        return all(
            (place / name).stat().st_size == facts["size"] and file_hash(place / name) == facts["sha256"]
            for name, facts in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # whatever a damaged manifest may hold
        return False
