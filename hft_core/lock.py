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
    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(f"run folder '{folder}' cannot be written to: {error.strerror}") from error
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UsageError(f"run folder '{folder}' is in use by another run") from error
        yield
    finally:
        os.close(handle)
