"""Record requests to stop for long loops to check, so that a run stops in a resumable state; light.

A request is a signal (Ctrl-C, a scheduler's warning, a closed terminal, a CPU limit) or the end of the run's time.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hft_core.errors import HftError
from hft_core.runtime import time_limit

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
"""Of the signals that stop a run. SIGUSR1 and SIGUSR2 are warnings of Slurm and Grid Engine, SIGXCPU comes at the soft
limit of CPU time, SIGHUP when a terminal is closed."""
STOPPING = tuple(signal.Signals[name] for name in NAMES if name in signal.Signals.__members__)
"""Those that this system has."""
TIME_IS_OVER = 1 << 16
"""Stands for the end of the run's time where numbers of signals are compared between processes."""
TIME_EXIT_CODE = 124
"""As of `timeout` of the GNU core utilities."""

_received: list[int] = []


class Interrupted(HftError):
    """The process was asked to stop; work so far is saved where possible."""

    label = ""

    def __init__(self, number: int, where: str = "") -> None:
        """`number`: of the signal, or `TIME_IS_OVER`."""
        name = "max_time" if number == TIME_IS_OVER else signal.Signals(number).name
        super().__init__(f"stopped by {name}{where}")
        self.number = number
        self.exit_code = TIME_EXIT_CODE if number == TIME_IS_OVER else 128 + number


def requested() -> int:
    """Return the number of the signal that asked this process to stop, or `TIME_IS_OVER`; 0 without a request."""
    if _received:
        return _received[0]
    return TIME_IS_OVER if time_limit.is_over() else 0


def check() -> None:
    """Raise `Interrupted` when the process was asked to stop. Cheap enough for every iteration of a loop."""
    number = requested()
    if number:
        raise Interrupted(number)


@contextmanager
def listening() -> Iterator[None]:
    """Record the signals in `STOPPING` inside instead of ending at once; a second SIGINT ends at once.

    A signal that is ignored stays ignored (SIGHUP under `nohup`). Does nothing outside the main thread, where Python
    allows no signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _note) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        _received.clear()


def _note(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and signal.SIGINT in _received:
        raise KeyboardInterrupt
    _received.append(number)
