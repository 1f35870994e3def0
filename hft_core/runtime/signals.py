"""Record SIGTERM and SIGINT for long loops to check, so that a run stops in a resumable state; light."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hft_core.errors import HftError

_received: list[int] = []


class Interrupted(HftError):
    """The process was asked to stop; work so far is saved where possible."""

    label = ""

    def __init__(self, number: int, where: str = "") -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}{where}")
        self.number = number
        self.exit_code = 128 + number


def requested() -> int:
    """Return the number of the signal that asked this process to stop; 0 without one."""
    return _received[0] if _received else 0


def check() -> None:
    """Raise `Interrupted` when the process was asked to stop. Cheap enough for every iteration of a loop."""
    if _received:
        raise Interrupted(_received[0])


@contextmanager
def listening() -> Iterator[None]:
    """Record SIGTERM and SIGINT inside instead of ending at once; a second SIGINT ends at once.

    Does nothing outside the main thread, where Python allows no signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def _note(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and signal.SIGINT in _received:
        raise KeyboardInterrupt
    _received.append(number)
