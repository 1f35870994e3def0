"""Where the time of a stage goes: at every moment one part of the work has it.

On a CPU the moments between the parts are read from the host's clock. A GPU works behind the host: there the moments
are events in the GPU's own queue, so that a part has the time in which the GPU was busy with it, or waited for it, and
nobody has to wait for the GPU in order to know. Under a profiler each part is a range of its own.
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
"""`data`: planning a step and making its batches. `forward`: through the model to the losses. `backward`: from the
losses to every gradient, with combining them and, of several processes, adding them up. `optimizer`: clipping and
moving. `other`: what observers do, and what comes before the first step and after the last."""
RANGE = "hft: "
"""What the names of the parts begin with in a profile."""


class Moment(Protocol):
    """A moment that may still lie ahead of the host: torch's events, and the host's own clock."""

    def query(self) -> bool:
        """Whether it is over."""

    def elapsed_time(self, later: Any, /) -> float:
        """Milliseconds until another moment, of the same kind."""


class _HostMoment:
    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = time.perf_counter()

    def query(self) -> bool:
        return True

    def elapsed_time(self, later: _HostMoment, /) -> float:
        return (later.at - self.at) * 1e3


class Clock:
    """Adds up seconds by part."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._running = OTHER
        self._range: profiler.record_function | None = None
        self._last = self._now()
        self._passed: deque[tuple[str, Moment, Moment]] = deque()

    def restart(self) -> None:
        """Count from here."""
        self.seconds()
        self._seconds.clear()

    def add(self, before: Mapping[str, float]) -> None:
        """Count what an earlier process counted."""
        for part, seconds in before.items():
            self._seconds[part] += seconds

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Inside, the time is that of `name`; what runs around it goes on afterwards."""
        before = self._running
        self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def seconds(self) -> dict[str, float]:
        """Seconds by part until now. On a GPU it waits for what is under way."""
        self._switch(self._running)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._add_up()
        return {part: self._seconds[part] for part in PARTS}

    def _switch(self, name: str) -> None:
        now = self._now()
        self._passed.append((self._running, self._last, now))
        self._running, self._last = name, now
        self._add_up()
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None
        if profiler._is_profiler_enabled:
            self._range = profiler.record_function(RANGE + name)
            self._range.__enter__()  # type: ignore[no-untyped-call]

    def _add_up(self) -> None:
        """Add the parts that are over by now."""
        while self._passed and self._passed[0][2].query():
            part, start, end = self._passed.popleft()
            self._seconds[part] += start.elapsed_time(end) / 1e3

    def _now(self) -> Moment:
        if self._device.type != "cuda":
            return _HostMoment()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
