"""Stopping a run from outside: SIGTERM and SIGINT are noted, and every long loop asks whether one came; light."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hft_core.errors import HftError

_received: list[int] = []


class Interrupted(HftError):
    """The process was told to end; what was computed so far is kept where it can be."""

    def __init__(self, number: int, where: str = "") -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}{where}")
        self.number = number
        self.exit_code = 128 + number


def requested() -> int:
    """The number of the signal by which this process was told to end; 0 when it was not."""
    return _received[0] if _received else 0


def check() -> None:
    """Raise `Interrupted` when the process was told to end. Cheap: for every long loop."""
    if _received:
        raise Interrupted(_received[0])


@contextmanager
def listening() -> Iterator[None]:
    """Note SIGTERM and SIGINT inside instead of ending at once; a second SIGINT ends at once. Outside the main thread,
    where Python lets nobody listen, nothing changes."""
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
