"""Call the observers of a run in order; one that fails is dropped without stopping the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import pluggy

from hft_core.errors import PluginError
from hft_core.plugins.entries import one_line
from hft_core.plugins.registration import LIFECYCLE_HOOKS, register

Listener = tuple[int, str, Callable[[object], object]]
"""An observer's index and label, and its function for one event."""


class Observers:
    """The observers of one run: plugin modules, and host objects whose methods are marked with `hookimpl`."""

    def __init__(
        self,
        observers: Sequence[tuple[str, object]],
        report: Callable[[str], None],
        aside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Register pairs of label and object, in calling order.

        `report` receives a message for each failed observer; observers are called inside the context `aside`. Raises
        `PluginError` when an object's hooks are not valid (a misspelt name, say).
        """
        self._report, self._aside = report, aside
        self._listeners: dict[str, list[Listener]] = {}
        for index, (label, observer) in enumerate(observers):
            for name, function in _functions(label, observer):
                self._listeners.setdefault(name, []).append((index, label, function))

    def listens(self, name: str) -> bool:
        """Return whether any observer handles the event, so that a costly one can be skipped."""
        return bool(self._listeners.get(name))

    def emit(self, name: str, event: object) -> None:
        """Call `hft_<name>` of each observer. One that raises is reported and dropped for the rest of the run."""
        with self._aside():
            for index, label, function in self._listeners.get(name, ()):
                try:
                    function(event)
                except (Exception, SystemExit) as error:
                    self._drop(index)
                    self._report(
                        f"observer '{label}' failed at '{name}' and is left out from now on: {one_line(error)}"
                    )

    def _drop(self, index: int) -> None:
        # New lists, since `emit` iterates over one of the old ones.
        self._listeners = {
            name: [listener for listener in listeners if listener[0] != index]
            for name, listeners in self._listeners.items()
        }


def _functions(label: str, observer: object) -> list[tuple[str, Callable[[object], object]]]:
    """Return the observer's functions, each taking the event, with the event's name (without the prefix)."""
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
