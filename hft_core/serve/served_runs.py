"""Hold the served runs by name, and replace them while requests are answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from hft_core.errors import UsageError, did_you_mean
from hft_core.serve.errors import Refused
from hft_core.serve.served_run import ServedRun, ServedTask

Open = Callable[[str, Path], ServedRun]


class ServedRuns:
    """Runs by name. A job keeps the run that it was accepted for, so that replacing one loses no request."""

    def __init__(self, folders: Mapping[str, Path], open_one: Open) -> None:
        """Open all of them. Raises `HftError` when one cannot be opened."""
        self._folders, self._open, self._reloading = dict(folders), open_one, threading.Lock()
        self._runs = {name: open_one(name, folder) for name, folder in folders.items()}

    def all(self) -> list[ServedRun]:
        """Return the runs in the order that they were given."""
        return list(self._runs.values())

    def find(self, name: str | None) -> ServedRun:
        """Return a run; the only one if no name is given. Raises `Refused` (404, 422)."""
        runs = self._runs
        if name is None:
            if len(runs) > 1:
                raise Refused(422, f"run: several are served, give one of {', '.join(runs)}")
            return next(iter(runs.values()))
        if name not in runs:
            raise Refused(404, f"run: there is no run '{name}'.{did_you_mean(name, runs)}")
        return runs[name]

    def reload(self) -> list[str]:
        """Open every folder again (a link may lead to another run by now), and replace the old runs by them.

        Raises `HftError` when one cannot be opened; the old ones are then served on. Raises `Refused` (409) while
        another call is at it.
        """
        if not self._reloading.acquire(blocking=False):
            raise Refused(409, "the runs are being opened again already")
        try:
            self._runs = {name: self._open(name, folder) for name, folder in self._folders.items()}
            return list(self._runs)
        finally:
            self._reloading.release()


def named(runs: list[str]) -> dict[str, Path]:
    """Return folders by name, from `FOLDER` (whose name it gets) or `NAME=FOLDER`. Raises `UsageError`."""
    found: dict[str, Path] = {}
    for text in runs:
        name, equals, folder = text.partition("=")
        if equals and Path(text).is_dir():
            name, equals, folder = Path(text).name, "=", text
        path = Path(folder if equals else text)
        name = name if equals else path.absolute().name
        if not name or (not folder and equals):
            raise UsageError(f"'{text}': expected FOLDER or NAME=FOLDER")
        if name in found:
            raise UsageError(f"two runs are called '{name}': give one another name, as in other={path}")
        found[name] = path
    return found


def find_task(run: ServedRun, name: str) -> ServedTask:
    """Return a task of a run. Raises `Refused` (404)."""
    if name not in run.tasks:
        raise Refused(404, f"tasks: run '{run.name}' has no task '{name}' with answers.{did_you_mean(name, run.tasks)}")
    return run.tasks[name]
