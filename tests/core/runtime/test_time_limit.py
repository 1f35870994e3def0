from __future__ import annotations

import signal
import threading
import time

import pytest

from hft_core.errors import UsageError
from hft_core.runtime import signals, time_limit
from hft_core.runtime.time_limit import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h30m", 9000),
        ("45m", 2700),
        ("90s", 90),
        ("90", 90),
        ("1d12h", 129_600),
        ("1.5h", 5400),
        (" 2H ", 7200),
        ("02:30:00", 9000),
        ("1-12:00:00", 129_600),
        (0.5, 0.5),
        (3600, 3600),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str | float, seconds: float) -> None:
    assert seconds_of(text, "--max-time") == seconds


@pytest.mark.parametrize(
    "text",
    ["", "0", "-5m", "2:30", "30m2h", "1e3", "nan", "inf", "2 hours", "h", "\uff190", "9" * 400, float("nan"), -1.0],
)
def test_what_is_no_time_is_refused(text: str | float) -> None:
    with pytest.raises(UsageError, match="--max-time: expected a time such as 2h30m"):
        seconds_of(text, "--max-time")


def test_each_thread_has_its_own_time() -> None:
    other: list[int] = []
    with time_limit.time_limit(1e-9):
        time.sleep(0.001)
        assert signals.requested() == signals.TIME_IS_OVER
        thread = threading.Thread(target=lambda: other.append(signals.requested()))
        thread.start()
        thread.join()
        with time_limit.time_limit(60):
            assert signals.requested() == 0
        with pytest.raises(signals.Interrupted, match="stopped by max_time"):
            signals.check()
    assert signals.requested() == 0
    assert other == [0]


@pytest.mark.parametrize("number", signals.STOPPING)
def test_a_signal_is_recorded_and_its_handler_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with signals.listening():
        signal.raise_signal(number)
        assert signals.requested() == number
        with pytest.raises(signals.Interrupted) as stopped:
            signals.check()
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) == before
    assert signals.requested() == 0


def test_a_closed_terminal_stops_nothing_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.listening():
            signal.raise_signal(signal.SIGHUP)
            assert signals.requested() == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
