from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hft_applications.windows import Windows

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_windows_begin_at_multiples_of_their_length_and_close_with_a_later_text() -> None:
    windows = Windows(timedelta(hours=1))
    assert windows.add(NOON + timedelta(minutes=59), "apple", "negative") is None
    assert windows.add(NOON + timedelta(minutes=1), "apple", "positive") is None
    closed = windows.add(NOON + timedelta(hours=3), "apple", "negative")
    assert closed is not None
    assert (closed.begin, closed.end) == (NOON, NOON + timedelta(hours=1))
    assert closed.counts == {("apple", "negative"): 1, ("apple", "positive"): 1}
    assert (closed.texts(), closed.texts("apple"), closed.texts("claritin")) == (2, 2, 0)
    assert windows.close_until(NOON + timedelta(hours=3, minutes=59)) is None
    last = windows.close_until(NOON + timedelta(hours=4))
    assert last is not None
    assert last.begin == NOON + timedelta(hours=3), "windows without texts are left out"
    assert windows.close() is None


def test_a_late_text_is_counted_as_late_only() -> None:
    windows = Windows(timedelta(hours=1))
    windows.add(NOON, "apple", "negative")
    assert windows.add(NOON - timedelta(seconds=1), "apple", "negative") is None
    closed = windows.close()
    assert closed is not None
    assert (closed.late, closed.texts()) == (1, 1)


def test_zones_are_one_time() -> None:
    windows = Windows(timedelta(days=1))
    windows.add(datetime(2026, 1, 2, 1, tzinfo=timezone(timedelta(hours=2))), "apple", "negative")
    closed = windows.close()
    assert closed is not None
    assert closed.begin == datetime(2026, 1, 1, tzinfo=UTC)
