"""One run at a time in a folder; light."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hft_core.errors import UsageError

LOCK_FILE = ".lock"

try:
    import fcntl
except ImportError:  # where there are no such locks, two runs in one folder are not told apart
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder; the system gives it back when the process ends, however it ends.

    Raises `UsageError` when another run holds it, or when the folder cannot be written to.
    """
    path = folder / LOCK_FILE
    handle = _taken(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever opened it meanwhile finds that it has gone
        os.close(handle)


def _taken(path: Path) -> int:
    """The lock file, open and locked."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(f"run folder '{path.parent}' cannot be written to: {error.strerror}") from error
        if fcntl is None:
            return handle
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise UsageError(f"run folder '{path.parent}' is in use by another run") from error
        if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
            return handle
        os.close(handle)
