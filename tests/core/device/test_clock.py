from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.profiler import profile

from hft_core.device import clock as clock_module
from hft_core.device.clock import BACKWARD, DATA, FORWARD, OTHER, PARTS, RANGE, Clock

CPU = torch.device("cpu")


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that sets the host's clock."""
    now = [0.0]
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def test_a_part_inside_another_takes_its_time_out_of_it(at: Callable[[float], None]) -> None:
    clock = Clock(CPU)
    at(1)
    with clock.part(BACKWARD):
        at(3)
        with clock.part(FORWARD):
            at(10)
        at(12)
    at(13)
    found = clock.seconds()
    assert list(found) == list(PARTS)
    assert {part: seconds for part, seconds in found.items() if seconds} == {OTHER: 2, BACKWARD: 4, FORWARD: 7}


def test_an_error_inside_a_part_ends_it(at: Callable[[float], None]) -> None:
    clock = Clock(CPU)

    def fails() -> None:
        with clock.part(DATA):
            at(2)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fails()
    at(5)
    assert (clock.seconds()[DATA], clock.seconds()[OTHER]) == (2, 3)


def test_a_resumed_stage_goes_on_counting(at: Callable[[float], None]) -> None:
    clock = Clock(CPU)
    with clock.part(DATA):
        at(2)
    before = clock.seconds()
    later = Clock(CPU)
    later.restart()
    later.add(before)
    with later.part(DATA):
        at(5)
    assert later.seconds()[DATA] == 5


def test_a_new_stage_begins_with_nothing(at: Callable[[float], None]) -> None:
    clock = Clock(CPU)
    with clock.part(DATA):
        at(2)
    clock.restart()
    at(3)
    assert {part: seconds for part, seconds in clock.seconds().items() if seconds} == {OTHER: 1}


class Event:
    """As one of a GPU's: it is over some time after the host has recorded it."""

    over = 0.0
    recorded = 0.0

    def __init__(self) -> None:
        Event.recorded += 1.0
        self.at = Event.recorded

    def query(self) -> bool:
        return self.at <= Event.over

    def elapsed_time(self, later: Event) -> float:
        assert self.query()
        assert later.query()
        return (later.at - self.at) * 1e3


def test_moments_that_still_lie_ahead_are_added_up_when_they_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a GPU does with its events, without a GPU.
    monkeypatch.setattr(Clock, "_now", lambda self: Event())
    clock = Clock(CPU)
    for _ in range(3):
        with clock.part(DATA):
            pass
    assert sum(clock._seconds.values()) == 0
    Event.over = 5.0
    with clock.part(FORWARD):
        pass
    assert {part: seconds for part, seconds in clock._seconds.items() if seconds} == {OTHER: 2, DATA: 2}
    Event.over = 99.0
    assert sum(clock.seconds().values()) == Event.recorded - 1


def test_a_switch_costs_microseconds() -> None:
    clock, switches = Clock(CPU), 2000
    best = 1.0
    for _ in range(5):
        start = time.thread_time()
        for _ in range(switches):
            with clock.part(DATA):
                pass
        best = min(best, (time.thread_time() - start) / switches)
    assert best < 50e-6  # a step has about ten of them


def test_under_a_profiler_each_part_is_a_range_of_its_own() -> None:
    clock = Clock(CPU)
    with profile() as seen, clock.part(BACKWARD):
        torch.ones(2).sum()
        with clock.part(FORWARD):
            torch.ones(2).sum()
    ranges: list[Any] = [event for event in seen.events() if event.name.startswith(RANGE)]
    assert [event.name for event in ranges][:3] == [RANGE + BACKWARD, RANGE + FORWARD, RANGE + BACKWARD]
    assert all(one.time_range.end <= two.time_range.start for one, two in pairwise(ranges))
