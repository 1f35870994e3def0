"""Find commands that installed distributions add to `hft`: entry points of the group `hft.commands`.

An entry point is named as its command and refers to a function like those of `hft_core.cli.app.COMMANDS`. It is loaded
when its command is called or the help of the whole is shown; distributions that are not admitted are never imported.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

from hft_core.cli.invocation import Invocation
from hft_core.errors import PluginError
from hft_core.plugins.allowlist import Allowlist
from hft_core.plugins.entries import one_line

GROUP = "hft.commands"
Points = Mapping[str, list[importlib.metadata.EntryPoint]]
"""By the name of the command: an entry point of each distribution that offers it."""


def find(invocation: Invocation) -> Points:
    """Find the commands of the distributions that this call admits. Raises `PluginError` for an invalid name on a
    list of distributions."""
    allowlist = Allowlist.of(invocation.block, () if invocation.no_third_party else None)
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in _entry_points():
        if not allowlist.refusal(_distribution(point)):
            found.setdefault(point.name, []).append(point)
    return dict(sorted(found.items()))


def load(points: Points, name: str) -> Callable[..., Any]:
    """Import the function of a command. Raises `PluginError` if it cannot be used or several distributions offer it."""
    offered = points[name]
    if len(offered) > 1:
        names = " and ".join(sorted(map(_distribution, offered)))
        raise PluginError(f"several distributions offer the command '{name}': {names}; leave one out with --block")
    (point,) = offered
    try:
        function = point.load()
        if not callable(function):
            raise TypeError(f"{point.value} is not a function")
    except (Exception, SystemExit) as error:
        message = f"command '{name}' of {_distribution(point)} cannot be loaded: {one_line(error)}"
        raise PluginError(message) from error
    loaded: Callable[..., Any] = function
    return loaded


def for_help(points: Points, name: str) -> Callable[..., Any]:
    """Import the function of a command, or make one whose help says why it cannot be used."""
    try:
        return load(points, name)
    except PluginError as error:
        reason = str(error)

    def unusable() -> None:
        raise PluginError(reason)

    unusable.__doc__ = f"Cannot be used: {reason}"
    return unusable


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    try:
        return list(importlib.metadata.entry_points(group=GROUP))
    except Exception:  # an entry_points.txt that cannot be parsed: `hft list-plugins` says whose
        return []


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    try:
        return str(point.dist.metadata["Name"]) if point.dist is not None else "unknown"
    except Exception:  # a damaged METADATA file raises many types
        return "unknown"
