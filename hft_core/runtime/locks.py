"""Lock files that exclude other processes; light."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hft_core.runtime import signals

POLL_SECONDS = 0.05
"""Time between two attempts to get a lock that another process holds."""


class LockedError(Exception):
    """Another process, or another lock of this one, holds the file."""


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on the file at `path`, which exists while it is held.

    The system releases the lock when the process ends, however it ends. With `wait`, block until the lock is free or
    the process is asked to stop (`Interrupted`). Raises `LockedError` when the lock is held and `wait` is false, and
    `OSError` where the file cannot be opened or locked.
    """
    lock = FileLock(path, mode=0o644, thread_local=False)  # a session may be closed by another thread than opened it
    timeout = -1 if wait else 0
    try:
        lock.acquire(timeout, poll_interval=POLL_SECONDS, cancel_check=lambda: bool(signals.requested()))
    except Timeout:
        signals.check()
        raise LockedError(str(path)) from None
    try:
        yield
    finally:
        with suppress(OSError):  # a disk that fails must not hide why the work inside ended
            path.unlink(missing_ok=True)  # while it is held: a process that has opened it finds it deleted, and retries
        lock.release()
