"""Describe providers and their plugins as entries of the plugin list."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from hft_core.plugins.allowlist import normalized
from hft_core.specs import Spec

OBSERVER = "observer"
"""Used in place of a seam for a module that implements lifecycle hooks."""


class State(StrEnum):
    """Whether a listed plugin can be used, and if not, why."""

    OK = "ok"
    BROKEN = "broken"
    NEEDS = "needs"
    CONFLICT = "conflict"
    BLOCKED = "blocked"
    INCOMPATIBLE = "incompatible"


@dataclass(frozen=True)
class Provider:
    """The source of a plugin: an installed distribution, a file given for one run, or a module passed by the host."""

    distribution: str
    """The distribution's name; the path of a single file; the name of a module."""
    version: str = ""
    entry_point: str = ""
    path: Path | None = None
    """The resolved path of a single file."""
    sha256: str = ""
    """The hash of a single file; of modules beside it that it imports as well, where there are any."""
    module: str = ""
    """The name under which a single file was imported."""

    @property
    def label(self) -> str:
        """The provider in messages: `hft-galore 0.1`."""
        return f"{self.distribution} {self.version}".strip()

    def matches(self, name: str) -> bool:
        """Return whether `name:plugin` refers to this provider."""
        if self.path is not None:
            return name in (self.distribution, self.path.name, self.path.stem)
        return normalized(name) == normalized(self.distribution)


@dataclass(frozen=True)
class Entry:
    """One line of the plugin list."""

    seam: str
    """Empty when the provider is blocked or failed to import."""
    name: str
    """The plugin's name; the entry point's name when the plugin's is unknown."""
    spec: Spec | None
    """None when broken or blocked."""
    provider: Provider
    state: State = State.OK
    reason: str = ""
    """One line; empty when ok."""
    needs: tuple[str, ...] = ()
    """Names of the distributions that are missing or too old."""
    traceback: str = ""
    seconds: float = 0.0
    """Time to import the provider's module."""
    warnings: tuple[str, ...] = ()
    """What the author should change although the plugin is usable, one line each."""

    @property
    def status(self) -> str:
        """The state as it is listed: `ok`, `needs cvxpy`, …"""
        return " ".join([self.state, *self.needs])


@dataclass
class ProviderPlugins:
    """The plugins and observers of one provider."""

    entries: list[Entry] = field(default_factory=list)
    observers: list[tuple[Entry, object]] = field(default_factory=list)
    """Entries of the pseudo-seam `observer`, with the module that implements the lifecycle hooks."""

    def warn(self, *messages: str) -> None:
        """Add warnings to all entries."""
        self.entries = [_with_warnings(entry, messages) for entry in self.entries]
        self.observers = [(_with_warnings(entry, messages), module) for entry, module in self.observers]


def _with_warnings(entry: Entry, messages: tuple[str, ...]) -> Entry:
    return replace(entry, warnings=(*entry.warnings, *messages))


def broken(
    provider: Provider, name: str, step: str, error: BaseException, *, seam: str = "", seconds: float = 0.0
) -> Entry:
    """Return a broken entry with the error's message and traceback; `step` says what failed."""
    text = "".join(traceback.format_exception(error))
    reason = f"{step}: {one_line(error)}"
    return Entry(seam, name, None, provider, State.BROKEN, reason, traceback=text, seconds=seconds)


def one_line(error: BaseException) -> str:
    """Return an exception's type and message on one line."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # the exception's own __str__ raises
        message = "(its message cannot be shown)"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
