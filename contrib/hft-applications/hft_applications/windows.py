"""Count texts by topic and sentiment in windows of time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta


@dataclass
class Window:
    """The texts from `begin` on, for `length`."""

    begin: datetime
    length: timedelta
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By topic and sentiment."""
    late: int = 0
    """Texts of earlier windows that came during this one; they are in no window's counts."""

    @property
    def end(self) -> datetime:
        """Return the moment at which the next window begins."""
        return self.begin + self.length

    def texts(self, topic: str | None = None) -> int:
        """Return how many texts there are, on one topic or on all of them."""
        return sum(count for key, count in self.counts.items() if topic in (None, key[0]))


class Windows:
    """Windows of one length, which begin at its multiples since 1970 (UTC). Those without texts are left out."""

    def __init__(self, length: timedelta) -> None:
        self.length = length
        self.open: Window | None = None

    def add(self, time: datetime, topic: str, sentiment: str) -> Window | None:
        """Count a text. Returns the window that this closes, if it does."""
        closed = self.close_until(time)
        if self.open is None:
            self.open = Window(self._begin(time), self.length)
        if time < self.open.begin:
            self.open.late += 1
        else:
            self.open.counts[topic, sentiment] += 1
        return closed

    def close_until(self, time: datetime) -> Window | None:
        """Close and return the open window if it has ended by then."""
        return self.close() if self.open is not None and time >= self.open.end else None

    def close(self) -> Window | None:
        """Close and return the open window, if there is one."""
        closed, self.open = self.open, None
        return closed

    def _begin(self, time: datetime) -> datetime:
        origin = datetime(1970, 1, 1, tzinfo=UTC)
        return origin + (time - origin) // self.length * self.length
