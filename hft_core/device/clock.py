"""Measure the time of a stage by part of the work; at every moment exactly one part is running.

On a CPU the host's clock is read when the part changes. A GPU runs asynchronously: there CUDA events mark the changes,
so a part's time is that of its work on the GPU, and measuring does not synchronize. Under a profiler each part is a
named range.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch.autograd import profiler

DATA, FORWARD, BACKWARD, OPTIMIZER = TRAINING = ("data", "forward", "backward", "optimizer")
SAVING, EVALUATION, OTHER = "saving", "evaluation", "other"
PARTS = (*TRAINING, SAVING, EVALUATION, OTHER)
"""`data`: planning a step and collating its batches. `forward`: through the model to the losses. `backward`: from the
losses to the gradients, including combining them and summing them over processes. `optimizer`: clipping and the
update. `other`: observers, and everything before the first step and after the last."""
RANGE = "hft: "
"""Prefix of the parts' names in a profile."""


class Moment(Protocol):
    """A timestamp: a CUDA event, which may not have happened yet, or a reading of the host's clock."""

    def query(self) -> bool:
        """Return whether it has happened."""

    def elapsed_time(self, later: Any, /) -> float:
        """Return the milliseconds until another timestamp of the same kind."""


class _HostMoment:
    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = time.perf_counter()

    def query(self) -> bool:
        return True

    def elapsed_time(self, later: _HostMoment, /) -> float:
        return (later.seconds - self.seconds) * 1e3


class Clock:
    """Sums seconds by part."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._running = OTHER
        self._range: profiler.record_function | None = None
        self._last = self._now()
        self._intervals: deque[tuple[str, Moment, Moment]] = deque()

    def restart(self) -> None:
        """Start again from zero."""
        self.seconds()
        self._seconds.clear()

    def add(self, before: Mapping[str, float]) -> None:
        """Add the seconds of a run before its resume."""
        for part, seconds in before.items():
            self._seconds[part] += seconds

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure the block as `name`; the enclosing part pauses."""
        before = self._running
        self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def seconds(self) -> dict[str, float]:
        """Return the seconds by part until now. Synchronizes a GPU."""
        self._switch(self._running)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._sum_finished()
        return {part: self._seconds[part] for part in PARTS}

    def _switch(self, name: str) -> None:
        now = self._now()
        self._intervals.append((self._running, self._last, now))
        self._running, self._last = name, now
        self._sum_finished()
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None
        if profiler._is_profiler_enabled:
            self._range = profiler.record_function(RANGE + name)
            self._range.__enter__()  # type: ignore[no-untyped-call]

    def _sum_finished(self) -> None:
        """Sum the intervals whose end has happened."""
        while self._intervals and self._intervals[0][2].query():
            part, start, end = self._intervals.popleft()
            self._seconds[part] += start.elapsed_time(end) / 1e3

    def _now(self) -> Moment:
        if self._device.type != "cuda":
            return _HostMoment()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
