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
    try:
        handle = taken(path)
    except OSError as error:
        raise UsageError(f"run folder '{folder}' cannot be written to: {error.strerror}") from error
    if handle is None:
        raise UsageError(f"run folder '{folder}' is in use by another run")
    try:
        yield
    finally:
        release(path, handle)


def taken(path: Path) -> int | None:
    """The lock file, open and locked, for `release`; None while another has it. Raises `OSError`."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        if fcntl is None:
            return handle
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            os.close(handle)
            raise
        if _is_at(path, handle):
            return handle
        os.close(handle)


def release(path: Path, handle: int) -> None:
    """Give the lock back."""
    path.unlink(missing_ok=True)  # while it is held: whoever opened it meanwhile finds that it has gone
    os.close(handle)


def _is_at(path: Path, handle: int) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
