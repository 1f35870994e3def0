"""Show how far a long prediction is: one line that changes on a terminal, lines at intervals elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hft_core.cli.progress import clock
from hft_core.cli.terminal import say_error

if TYPE_CHECKING:
    from hft_core.predict.answer_file import Progress

QUIET_SECONDS = 10.0
"""Nothing is shown of what takes less time than this, and nothing more often than this where there is no terminal."""


class RowProgress:
    """Called with what is done and the number of rows in all."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal
        self._since = self._shown = time.perf_counter()
        self._before: int | None = None
        self._open = False

    def __call__(self, done: Progress, total: int) -> None:
        now = time.perf_counter()
        if self._before is None:  # the first chunk includes what is only done once
            self._before, self._since = done.read, now
            return
        if now - self._shown < (0.5 if self._terminal else QUIET_SECONDS):
            return
        self._shown = now
        rate = (done.read - self._before) / max(now - self._since, 1e-9)
        text = f"{done.read:,} of {total:,} rows; {rate:,.0f} rows/s, {clock((total - done.read) / rate)} left"
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
            self._open = True
        else:
            say_error(text)

    def close(self) -> None:
        """End the line that changes."""
        if self._open:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextmanager
def row_progress() -> Iterator[RowProgress]:
    """Show the progress of what is done inside."""
    shown = RowProgress(terminal=sys.stderr.isatty())
    try:
        yield shown
    finally:
        shown.close()
