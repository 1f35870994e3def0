"""Define a check, its subject and its outcome; imports no torch and no pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hft_core.plugins.catalogue import Catalogue, Entry, accepted


class Failed(AssertionError):
    """A plugin violates its contract; the message is one line with what was expected and found."""


class NotClaimed(Exception):
    """The plugin does not claim the feature that the check is about; the message says which."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A plugin to check, built from its spec's `example`. Compared by identity."""

    entry: Entry
    catalogue: Catalogue
    """Other plugins that a check needs, such as a backbone for a head."""

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
    """One requirement of the plugins of a seam. Its name is public: authors use it for expected failures."""

    name: str
    seam: str
    """Empty: of every seam."""
    run: Callable[[Subject], None]
    """Raises `Failed`, `NotClaimed`, or whatever the plugin raises."""

    @property
    def says(self) -> str:
        """The requirement, in one sentence."""
        return " ".join((self.run.__doc__ or "").split())


def check(seam: str, into: list[Check]) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Register the decorated function as a check, under its name with hyphens."""

    def register(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        into.append(Check(function.__name__.replace("_", "-"), seam, function))
        return function

    return register


def expect(holds: bool, expected: str, found: object) -> None:
    """Raise `Failed` with `expected` and `found` in one line unless `holds`."""
    if not holds:
        raise Failed(f"expected {expected}; found {' '.join(str(found).split())}")


class Result(StrEnum):
    """The result of a check."""

    HOLDS = "holds"
    FAILS = "fails"
    NOT_CLAIMED = "not claimed"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one check of one plugin."""

    plugin: str
    check: str
    result: Result
    message: str = ""
    """One line; empty where the check holds."""
    traceback: str = ""
    """Of an exception that the plugin raised."""
    seconds: float = 0.0
