"""End a run after a wall time; light.

The limit belongs to the code inside a `time_limit` block of one thread, so that runs in several threads may have
different ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic

from hft_core.errors import UsageError

SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_PARTS = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit in ("d", "h", "m", "s?")), re.ASCII)
_CLOCK = re.compile(r"(?:(\d{1,3})-)?(\d{1,4}):([0-5]\d):([0-5]\d)")
FORM = "a time such as 2h30m, 45m, 90s or 1-12:00:00"

_end: ContextVar[float | None] = ContextVar("end", default=None)


def seconds_of(limit: float | str | None, origin: str) -> float | None:
    """Return the seconds of `2h30m`, `1d`, `90s`, `HH:MM:SS`, `D-HH:MM:SS` or a number of seconds; None for no limit.

    Raises `UsageError` that begins with `origin` for anything else, and for a time that is not positive.
    """
    if limit is None:
        return None
    seconds = _parsed(limit.strip().lower()) if isinstance(limit, str) else float(limit)
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"{origin}: expected {FORM}, not '{str(limit)[:40]}'")
    return seconds


def _parsed(text: str) -> float:
    clock, parts = _CLOCK.fullmatch(text), _PARTS.fullmatch(text)
    match = clock or parts
    if match is None:
        return math.nan
    return sum(float(part or 0) * unit for part, unit in zip(match.groups(), SECONDS.values(), strict=True))


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Let `is_over` be true in this thread once so many seconds have passed; None: without limit."""
    token = _end.set(None if seconds is None else monotonic() + seconds)
    try:
        yield
    finally:
        _end.reset(token)


def is_over() -> bool:
    """Return whether the time of the innermost `time_limit` of this thread has passed."""
    end = _end.get()
    return end is not None and monotonic() >= end
