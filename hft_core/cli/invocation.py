"""Parse the global options of `hft`, which may be anywhere on the command line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hft_core.errors import UsageError

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue

_FLAGS = {"--debug": "debug", "--version": "version", "--no-third-party": "no_third_party"}
_WITH_VALUE = {"--block": "the name of a distribution", "--plugin": "a .py file"}
EVERYWHERE = (*_FLAGS, *_WITH_VALUE)
"""The global options."""


@dataclass
class Invocation:
    """The global options of a call. Commands get it as `typer.Context.obj`."""

    debug: bool = False
    version: bool = False
    no_third_party: bool = False
    block: list[str] = field(default_factory=list)
    plugins: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    """The whole command line."""

    @cached_property
    def catalogue(self) -> Catalogue:
        """The plugins of this call. Raises `PluginError` when a file given by `--plugin` cannot be used."""
        from hft_core.plugins.catalogue import Catalogue

        with prints_on_stderr():
            return Catalogue.discover(block=self.block, inline=self.plugins, allow=() if self.no_third_party else None)

    def again(self) -> list[str]:
        """Return the global options for a command that this one starts."""
        options = ["--no-third-party"] if self.no_third_party else []
        options += [word for name in self.block for word in ("--block", name)]
        return options + [word for file in self.plugins for word in ("--plugin", str(Path(file).resolve()))]


def prints_on_stderr() -> contextlib.AbstractContextManager[object]:
    """Redirect what plugins print on import to standard error, so that it does not mix with JSON output."""
    return contextlib.redirect_stdout(sys.stderr)


def split(arguments: Sequence[str]) -> tuple[Invocation, list[str]]:
    """Separate the global options before a `--` from the other arguments.

    They are parsed first, because plugins must be blocked before anything is loaded.
    Raises `UsageError` for an option without its value.
    """
    invocation = Invocation(arguments=list(arguments))
    rest: list[str] = []
    pending = iter(arguments)
    for argument in pending:
        option, equals, value = argument.partition("=")
        if argument == "--":
            rest += [argument, *pending]
        elif argument in _FLAGS:
            setattr(invocation, _FLAGS[argument], True)
        elif option in _WITH_VALUE:
            value = value if equals else next(pending, "")
            if not value or value.startswith("-"):
                raise UsageError(f"{option} needs {_WITH_VALUE[option]}")
            _add(invocation, option, value)
        else:
            rest.append(argument)
    return invocation, rest


def _add(invocation: Invocation, option: str, value: str) -> None:
    from hft_core.plugins.allowlist import parse_names

    if option == "--block":
        invocation.block += parse_names(value, option)
    else:
        invocation.plugins.append(value)
