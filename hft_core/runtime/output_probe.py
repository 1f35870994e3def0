"""Try the output folder before anything is trained: its path, its room, and the names of the files to come; light."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from hft_core.errors import UsageError

FOLDER_PREFIX = ".probe-"
LONGEST_IN_TASK = "model.safetensors.index.json"
"""The longest of the names of files that are written for a task."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""A URL as a path writes it, with one slash; a drive of Windows has a single letter."""
PROBE_BYTES = 1 << 12


def check_path(folder: Path) -> None:
    """Raise `UsageError` for a URL, and for a folder whose path is not UTF-8: the libraries that write and read weights
    cannot open a file in it."""
    if _URL.match(str(folder)):
        raise UsageError(f"output folder '{folder}' is a URL, expected a folder of this machine")
    if "\0" in str(folder):
        raise UsageError(f"output folder {str(folder)!a}: not a path, since it holds a null character")
    try:
        path = os.path.abspath(folder)
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(
            f"output folder {str(folder)!a}: its path is not valid UTF-8, and weights could not be written in it; "
            "expected another name"
        ) from None
    except OSError as error:
        raise UsageError(f"output folder '{folder}': the working folder is gone ({error.strerror})") from None


def check_names(folder: Path, tasks: Sequence[str], stages: Sequence[str]) -> None:
    """Write, rename and remove a file for each task and stage in `folder`, named as those that a run writes.

    The run's lock is held. Raises `UsageError` where the file system refuses one (too long, a character, no room, no
    permission), or takes two for one.
    """
    try:
        for left in folder.glob(f"{FOLDER_PREFIX}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        probe = Path(tempfile.mkdtemp(dir=folder, prefix=FOLDER_PREFIX))
    except OSError as error:
        raise UsageError(f"output folder '{folder}' cannot be written to: {error.strerror}") from error
    try:
        for name in _names(tasks, stages):
            _write(probe / name, folder / name)
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def _names(tasks: Sequence[str], stages: Sequence[str]) -> Iterable[Path]:
    for task in tasks:
        yield Path("model") / task / LONGEST_IN_TASK
    for number, stage in enumerate(stages, start=1):
        yield Path("checkpoints") / f"{number}-{stage}.base.safetensors"


def _write(path: Path, shown: Path) -> None:
    """Write the file `path` as a run does, under a temporary name first. `shown`: its name in errors."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(b"\0" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            raise UsageError(f"'{shown}' is the file of two names, which this file system takes for one; rename one")
        os.rename(temporary, path)
        os.truncate(path, 0)
    except OSError as error:
        raise UsageError(f"'{shown}' cannot be written: {error.strerror or error}") from error
