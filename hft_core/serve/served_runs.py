"""Hold the served runs and indexes by name, and replace them while requests are answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from hft_core.errors import UsageError, did_you_mean
from hft_core.serve.errors import Refused
from hft_core.serve.served_index import ServedIndex, open_indexes
from hft_core.serve.served_run import ServedRun, ServedTask

Served = TypeVar("Served")
Open = Callable[[str, Path], ServedRun]


class ServedRuns:
    """Runs and indexes by name. A job keeps the run that it was accepted for, so that replacing one loses no
    request."""

    def __init__(
        self, folders: Mapping[str, Path], open_one: Open, *, indexes: Mapping[str, Path] | None = None
    ) -> None:
        """Open all of them. `indexes`: folders by name. Raises `HftError` when one cannot be opened."""
        self._folders, self._open, self._reloading = dict(folders), open_one, threading.Lock()
        self._index_folders = dict(indexes or {})
        self._runs, self._indexes = self._opened()

    def _opened(self) -> tuple[dict[str, ServedRun], dict[str, ServedIndex]]:
        runs = {name: self._open(name, folder) for name, folder in self._folders.items()}
        return runs, open_indexes(self._index_folders, list(runs.values()))

    def all(self) -> list[ServedRun]:
        """Return the runs in the order that they were given."""
        return list(self._runs.values())

    def find(self, name: str | None) -> ServedRun:
        """Return a run; the only one if no name is given. Raises `Refused` (404, 422)."""
        return _find(self._runs, name, "run")

    def indexes(self) -> list[ServedIndex]:
        """Return the indexes in the order that they were given."""
        return list(self._indexes.values())

    def find_index(self, name: str | None) -> ServedIndex:
        """Return an index; the only one if no name is given. Raises `Refused` (404, 422)."""
        return _find(self._indexes, name, "index")

    def reload(self) -> list[str]:
        """Open every folder again (a link may lead to another one by now), and replace the old runs and indexes.

        Raises `HftError` when one cannot be opened; the old ones are then served on. Raises `Refused` (409) while
        another call is at it.
        """
        if not self._reloading.acquire(blocking=False):
            raise Refused(409, "the runs are being opened again already")
        try:
            self._runs, self._indexes = self._opened()
            return list(self._runs)
        finally:
            self._reloading.release()


def _find(served: Mapping[str, Served], name: str | None, what: str) -> Served:
    """Return one by its name, or the only one. Raises `Refused` (404, 422)."""
    if name is None:
        if len(served) > 1:
            raise Refused(422, f"{what}: several are served, give one of {', '.join(served)}")
        return next(iter(served.values()))
    if name not in served:
        raise Refused(404, f"{what}: there is no {what} '{name}'.{did_you_mean(name, served)}")
    return served[name]


def named(folders: list[str], what: str = "runs") -> dict[str, Path]:
    """Return folders by name, from `FOLDER` (whose name it gets) or `NAME=FOLDER`. Raises `UsageError`."""
    found: dict[str, Path] = {}
    for text in folders:
        name, equals, folder = text.partition("=")
        if equals and Path(text).is_dir():
            name, equals, folder = Path(text).name, "=", text
        path = Path(folder if equals else text)
        name = name if equals else path.absolute().name
        if not name or (not folder and equals):
            raise UsageError(f"'{text}': expected FOLDER or NAME=FOLDER")
        if name in found:
            raise UsageError(f"two {what} are called '{name}': give one another name, as in other={path}")
        found[name] = path
    return found


def find_task(run: ServedRun, name: str) -> ServedTask:
    """Return a task of a run. Raises `Refused` (404)."""
    if name not in run.tasks:
        raise Refused(404, f"tasks: run '{run.name}' has no task '{name}' with answers.{did_you_mean(name, run.tasks)}")
    return run.tasks[name]
