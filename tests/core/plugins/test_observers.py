from __future__ import annotations

import pytest

from hft_core import PluginError, hookimpl
from hft_core.plugins.observers import Observers


class Recorder:
    """Writes down what it was told."""

    def __init__(self, name: str, told: list[object]) -> None:
        self.name = name
        self.told = told

    @hookimpl
    def hft_run_started(self) -> None:
        self.told.append((self.name, "run_started"))

    @hookimpl
    def hft_step_finished(self, event: object) -> None:
        self.told.append((self.name, event))


class Failing:
    """Raises at every step."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.calls = 0

    @hookimpl
    def hft_step_finished(self, event: object) -> None:
        self.calls += 1
        raise self.error

    @hookimpl
    def hft_run_finished(self, event: object) -> None:
        self.calls += 100


def test_observers_are_called_in_their_order_with_the_arguments_they_take() -> None:
    told: list[object] = []
    observers = Observers([("b", Recorder("b", told)), ("a", Recorder("a", told))], report=told.append)
    observers.emit("run_started", "ignored")
    observers.emit("step_finished", 7)
    observers.emit("run_finished", "nobody listens")
    assert told == [("b", "run_started"), ("a", "run_started"), ("b", 7), ("a", 7)]


def test_an_observer_that_raises_is_reported_once_and_left_out_of_everything_after() -> None:
    told: list[object] = []
    reports: list[str] = []
    failing = Failing(ValueError("disk\nfull"))
    observers = Observers([("bad", failing), ("good", Recorder("good", told))], report=reports.append)
    for step in (1, 2):
        observers.emit("step_finished", step)
    observers.emit("run_finished", None)
    assert reports == ["observer 'bad' failed at 'step_finished' and is left out from now on: ValueError: disk full"]
    assert failing.calls == 1
    assert told == [("good", 1), ("good", 2)]


def test_two_observers_that_raise_at_the_same_event_are_both_reported() -> None:
    reports: list[str] = []
    observers = Observers([(n, Failing(ValueError(n))) for n in ("a", "b")], report=reports.append)
    observers.emit("step_finished", 1)
    observers.emit("step_finished", 2)
    assert [report.split("'")[1] for report in reports] == ["a", "b"]


def test_an_observer_that_exits_the_process_is_held_like_one_that_raises() -> None:
    reports: list[str] = []
    observers = Observers([("bad", Failing(SystemExit(0)))], report=reports.append)
    observers.emit("step_finished", 1)
    assert reports == ["observer 'bad' failed at 'step_finished' and is left out from now on: SystemExit: 0"]


def test_an_interrupt_passes_through() -> None:
    observers = Observers([("x", Failing(KeyboardInterrupt()))], report=print)
    with pytest.raises(KeyboardInterrupt):
        observers.emit("step_finished", 1)


def test_it_is_known_whether_anybody_listens() -> None:
    observers = Observers([("a", Recorder("a", []))], report=print)
    assert observers.listens("step_finished")
    assert not observers.listens("checkpoint_saved")


def test_a_misspelt_hook_is_an_error_that_names_the_nearest() -> None:
    class Misspelt:
        @hookimpl
        def hft_step_finnished(self, event: object) -> None: ...

    with pytest.raises(PluginError, match=r"observer 'mine': unknown hook .* Did you mean 'hft_step_finished'"):
        Observers([("mine", Misspelt())], report=print)


def test_an_argument_that_the_hook_does_not_have_is_an_error() -> None:
    class Wrong:
        @hookimpl
        def hft_step_finished(self, event: object, loss: float) -> None: ...

    with pytest.raises(PluginError, match=r"observer 'mine': .*loss"):
        Observers([("mine", Wrong())], report=print)


def test_an_unmarked_hook_is_an_error() -> None:
    class Unmarked:
        def hft_step_finished(self, event: object) -> None: ...

    with pytest.raises(PluginError, match="'hft_step_finished' is not marked with @hookimpl"):
        Observers([("mine", Unmarked())], report=print)
