"""The folder of what later runs need not compute again: entries that appear whole or not at all, bounded in size.

An entry is a folder with files and a manifest of their sizes and hashes. It is filled beside its place and published by
a rename; the ones that were used longest ago go when all of a kind together grow too large. Whatever is wrong with the
folder (read-only, full, damaged) is no error: the caller computes anew.
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
"""Bytes of all entries of one kind."""
ABANDONED = 86_400.0
"""Seconds after which what a killed process left half filled is removed."""
MANIFEST = "manifest.json"


def folder() -> Path:
    """The folder of all caches: `$HFT_CACHE`, or `hft` in the user's own folder for such things."""
    own = os.environ.get(PLACE)
    beside = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own or os.path.join(beside, "hft")).expanduser()


class Cache:
    """The entries of one kind."""

    def __init__(self, kind: str, *, limit: int = LIMIT) -> None:
        self.folder = folder() / kind
        self.limit = limit

    def find(self, key: str) -> Path | None:
        """The entry's folder, marked as just used; None where there is none, or a damaged one, which is removed."""
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
        """A new folder to be filled and given to `publish`; whatever is left of it at the end is removed.

        One process fills an entry at a time, the others wait here: look with `find` once more inside. None where the
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

    def publish(self, beside: Path, key: str) -> Path:
        """Give what `beside` was filled with its place; the entry's folder. Raises `OSError`."""
        files = {path.name: {"size": path.stat().st_size, "sha256": file_hash(path)} for path in beside.iterdir()}
        (beside / MANIFEST).write_text(json.dumps(files), encoding="utf-8")
        place = self.folder / key
        try:
            os.rename(beside, place)
        except OSError:
            if not _is_sound(place):  # not one that another process published meanwhile
                raise
        self._trim(place)
        return place

    def _trim(self, newest: Path) -> None:
        """Remove what was used longest ago until the rest is within the limit, and what was left half filled."""
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
        """Take an entry away such that no half of it is ever found; processes that have its files mapped keep them."""
        away = self.folder / f".{place.name}.{uuid.uuid4().hex[:8]}"
        with suppress(OSError):  # another process was faster, or the cache may only be read
            os.rename(place, away)
            shutil.rmtree(away, ignore_errors=True)


def _is_sound(place: Path) -> bool:
    """Whether the entry has all of its files as they were written."""
    try:
        files = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        return all(
            (place / name).stat().st_size == facts["size"] and file_hash(place / name) == facts["sha256"]
            for name, facts in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # whatever a damaged manifest may hold
        return False
