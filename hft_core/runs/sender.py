"""Hand work to a thread of its own through a bounded queue, so that what is slow or fails cannot hold up a run."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Work = Callable[[], None]


class Sender:
    """Does pieces of work one after another in a daemon thread, until the first that raises."""

    def __init__(self, name: str, *, capacity: int) -> None:
        self._queue: queue.Queue[Work | None] = queue.Queue(capacity)
        self._error: BaseException | None = None
        self.dropped = 0
        """Pieces of work that found the queue full."""
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, work: Work) -> None:
        """Add a piece of work, or drop it where the queue is full. Raises what an earlier piece raised."""
        if self._error is not None:
            raise self._error
        try:
            self._queue.put_nowait(work)
        except queue.Full:
            self.dropped += 1

    def close(self, last: Work, *, seconds: float) -> None:
        """Do `last` after everything else, and wait for it.

        Raises what a piece of work raised, and `TimeoutError` when it takes longer than `seconds`: the thread then
        goes on as long as the process does.
        """
        try:
            for work in (last, None):
                self._queue.put(work, timeout=seconds)
        except queue.Full:
            raise TimeoutError(f"it did not take what was recorded within {seconds:g} s") from None
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise TimeoutError(f"it was not done within {seconds:g} s")

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except (Exception, SystemExit) as error:
                self._error = error
                return
