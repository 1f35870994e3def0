"""Telling observers what a run does: every observer in order, none of them able to end the run; light."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import pluggy

from hft_core.errors import PluginError
from hft_core.plugins.discovery import one_line
from hft_core.plugins.registration import LIFECYCLE_HOOKS, register

Listener = tuple[int, str, Callable[[object], object]]
"""An observer's number and label, and its function for one event."""


class Observers:
    """The observers of one run: plugin modules, and objects of the host whose methods are marked with `hookimpl`."""

    def __init__(
        self,
        observers: Sequence[tuple[str, object]],
        report: Callable[[str], None],
        aside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`observers` are pairs of label and object, in calling order; `report` is told of one that fails; `aside` is
        the context in which they are called.

        Raises `PluginError` when an object's hooks can never be called as they are written (a misspelt name, say).
        """
        self._report, self._aside = report, aside
        self._listeners: dict[str, list[Listener]] = {}
        for number, (label, observer) in enumerate(observers):
            for name, function in _functions(label, observer):
                self._listeners.setdefault(name, []).append((number, label, function))

    def listens(self, name: str) -> bool:
        """Whether anybody wants the event, so that one that is costly to make can be left out."""
        return bool(self._listeners.get(name))

    def emit(self, name: str, event: object) -> None:
        """Call `hft_<name>` of each observer. One that raises is reported, and left out for the rest of the run."""
        with self._aside():
            for number, label, function in self._listeners.get(name, ()):
                try:
                    function(event)
                except (Exception, SystemExit) as error:
                    self._leave_out(number)
                    told = f"observer '{label}' failed at '{name}' and is left out from now on: {one_line(error)}"
                    self._report(told)

    def _leave_out(self, number: int) -> None:
        # New lists: `emit` is going through one of the old ones.
        self._listeners = {
            name: [listener for listener in listeners if listener[0] != number]
            for name, listeners in self._listeners.items()
        }


def _functions(label: str, observer: object) -> list[tuple[str, Callable[[object], object]]]:
    """The observer's functions with the event's name (without the prefix), each taking the event."""
    try:
        registration = register(observer)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"observer '{label}': {one_line(error)}") from error
    if registration.problems:
        raise PluginError(f"observer '{label}': {registration.problems[0]}")
    return [
        (hook.removeprefix("hft_"), _taking_event(implementation))
        for hook in registration.implemented
        if hook in LIFECYCLE_HOOKS
        for implementation in registration.implementations(hook)
    ]


def _taking_event(implementation: pluggy.HookImpl) -> Callable[[object], object]:
    function = implementation.function
    if "event" in implementation.argnames:
        return function
    return lambda event: function()
