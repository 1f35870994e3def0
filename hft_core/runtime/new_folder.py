"""Fill a new folder under another name until it is whole, and remove what killed processes left of earlier ones."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hft_core.runtime.files import follow_umask, sync, sync_tree


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`, named `.NAME.PID`, which becomes it once the block has ended without an
    error. Those of processes that were killed are removed.

    The folder is locked while it is filled: the system releases the lock of a process that has ended, however it did.
    Raises `OSError`.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    try:
        partial.mkdir()
        lock = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield partial
            follow_umask(partial)
            sync_tree(partial)
            partial.rename(folder)
            sync(folder.parent)
        finally:
            os.close(lock)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove folders that processes which have ended began to fill for `folder`."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.(\d+)")
    for path in folder.parent.iterdir():
        found = name.fullmatch(path.name)
        if found and path.is_dir() and not path.is_symlink() and _is_abandoned(path, int(found[1])):
            shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path: Path, process: int) -> bool:
    """Tell whether nobody fills `path`: neither a process of that number, which may not have locked it yet, nor one of
    another machine."""
    if process != os.getpid() and _is_running(process):
        return False
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:  # another process removes it, too
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
