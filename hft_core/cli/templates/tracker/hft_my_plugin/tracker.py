"""`my-plugin`: one line of a table for each number.

Put your own tracker here. It is called in a thread of its own, so it may wait for a server.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping

from pydantic import Field

from hft_core import options
from hft_core.tracker import TrackedRun, Tracker


class Options(options.Options):
    """What can be chosen."""

    delimiter: str = Field(default=",", min_length=1, max_length=1, description="character between two cells")


def build(options: Options, *, run: TrackedRun) -> Tracker:
    return MyPlugin(options, run)


class MyPlugin(Tracker):
    """Writes step, name and value; a resumed run appends."""

    def __init__(self, options: Options, run: TrackedRun) -> None:
        self.identity = run.identity or run.name
        self._file = (run.folder / "numbers.csv").open("a", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, delimiter=options.delimiter)

    def record(self, values: Mapping[str, float], step: int) -> None:
        self._rows.writerows((step, name, value) for name, value in values.items())

    def finish(self, *, failed: bool) -> None:
        self._file.close()
