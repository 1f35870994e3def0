"""What a check is, what it looks at, and what can come of it; light (no torch, no pytest)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hft_core.plugins.catalogue import Catalogue, Entry, accepted


class Failed(AssertionError):
    """A plugin does not do what its contract says: one line with what was expected and what was found."""


class NotClaimed(Exception):
    """The check is about something that the plugin does not say it does; the message says what."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One plugin that is looked at, built from its spec's `example`. Two subjects are never the same one."""

    entry: Entry
    catalogue: Catalogue
    """Where a check finds the other plugins that it needs: a trunk to put a head on."""

    @property
    def name(self) -> str:
        """The plugin in ids and messages: `strategy-lora`."""
        return f"{self.entry.seam}-{self.entry.name}" if self.entry.seam else self.entry.name

    @property
    def spec(self) -> Any:
        """The spec; of the seam's own class."""
        return self.entry.spec

    def options(self, given: Mapping[str, Any] | None = None) -> Any:
        """The plugin's options, read from `given` or from the spec's `example`."""
        return self.catalogue.load_options(self.entry).model_validate(
            dict(self.spec.example if given is None else given)
        )

    def build(self, **arguments: Any) -> Any:
        """A new plugin; `arguments` are those of its seam (see `hft_core.hooks`)."""
        factory = self.catalogue.load_factory(self.entry)
        if self.entry.seam == "head":
            from hft_core.head import HeadContext  # imports torch

            arguments = accepted(factory, {"context": HeadContext(self.catalogue)}) | arguments
        return factory(self.options(), **arguments)


@dataclass(frozen=True)
class Check:
    """One thing that every plugin of a seam does. Its name is public: authors name it where they expect a failure."""

    name: str
    seam: str
    """Empty: of every seam."""
    run: Callable[[Subject], None]
    """Raises `Failed`, `NotClaimed`, or whatever the plugin raises."""

    @property
    def says(self) -> str:
        """What holds, in one sentence."""
        return " ".join((self.run.__doc__ or "").split())


def check(seam: str, into: list[Check]) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Put the function into the list of its seam's checks, under its own name with hyphens."""

    def added(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        into.append(Check(function.__name__.replace("_", "-"), seam, function))
        return function

    return added


def expect(holds: bool, expected: str, found: object) -> None:
    """Raise `Failed` with both in one line unless `holds`."""
    if not holds:
        raise Failed(f"expected {expected}; found {' '.join(str(found).split())}")


class Result(StrEnum):
    """What came of a check."""

    HOLDS = "holds"
    FAILS = "fails"
    NOT_CLAIMED = "not claimed"


@dataclass(frozen=True)
class Outcome:
    """What came of one check of one plugin."""

    plugin: str
    check: str
    result: Result
    message: str = ""
    """One line; empty where the check holds."""
    traceback: str = ""
    """Where the plugin itself raised."""
    seconds: float = 0.0
