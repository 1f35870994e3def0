"""Test the model of glibc's heap: freed blocks are reused, held remnants are not, and large blocks are unmapped."""

from __future__ import annotations

from dataclasses import replace

from hft_core.memory.allocations import Event
from hft_core.memory.heap import heap_peak, live_peak

MIB = 1 << 20


def temporaries(size: int, count: int) -> list[Event]:
    """Blocks that are each freed before the next one is allocated, with one behind each that stays."""
    events = []
    for number in range(count):
        events += [Event(2 * number, size, False), Event(2 * number + 1, size // 2, False), Event(2 * number, 0, False)]
    return events


def test_what_is_alive_is_counted_up_to_its_largest_sum() -> None:
    events = [Event(1, 10, False), Event(2, 20, False), Event(1, 0, True), Event(3, 5, True)]
    assert live_peak(events) == (30, 1)


def test_holes_are_used_again_where_nothing_holds_their_edges() -> None:
    events = temporaries(4 * MIB, 8)
    live, _ = live_peak(events)
    reused, _ = heap_peak(events, kept=0)
    held, _ = heap_peak(events, kept=1)
    assert live == 20 * MIB
    assert live <= reused < 1.2 * live
    assert held > 1.5 * reused


def test_remnants_come_free_in_the_backward_pass() -> None:
    forward = [Event(number, 4 * MIB, False) for number in range(8)]
    backward = [Event(number, 0, True) for number in reversed(range(8))]
    again = [Event(8 + number, 4 * MIB, True) for number in range(8)]
    assert heap_peak([*forward, *backward, *again], kept=1)[0] < 1.1 * 32 * MIB


def test_nothing_holds_the_edges_where_autograd_records_nothing() -> None:
    events = temporaries(4 * MIB, 8)
    silent = [replace(event, graph=False) for event in events]
    assert heap_peak(silent, kept=1) == heap_peak(events, kept=0)


def test_large_blocks_are_mapped_and_given_back() -> None:
    peak, place = heap_peak(temporaries(40 * MIB, 4), kept=1)
    assert 120 * MIB <= peak < 121 * MIB and place == 10
