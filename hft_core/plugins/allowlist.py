"""Which installed distributions may bring plugins: block list, allow lists, and the form of their names; light.

What is not admitted is not imported. The environment variables only ever narrow what a host or a command line admits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from hft_core.errors import PluginError

OWN = "hft-core"
"""The distribution of the core and the built-in plugins: admitted unless it is blocked."""

BLOCK_VARIABLE = "HFT_BLOCK"
"""Environment variable that names distributions, divided by commas, whose plugins are not to be loaded."""

ALLOW_VARIABLE = "HFT_ALLOW"
"""Environment variable that names the only distributions, beside `OWN`, whose plugins may be loaded. Set to nothing, it
admits no third party."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
"""A distribution's name as the packaging standards have it."""


def normalised(distribution: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def names_in(text: str, place: str) -> list[str]:
    """The distribution names of a list divided by commas. Raises `PluginError`, which names `place`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not _NAME.fullmatch(name):
            raise PluginError(
                f"{place}: {name!r} is not the name of a distribution (letters, digits, '-', '_' and '.')"
            )
    return names


@dataclass(frozen=True)
class Admission:
    """What may be loaded."""

    blocked: frozenset[str]
    allowed: tuple[tuple[str, frozenset[str]], ...]
    """Each allow list that holds: where it comes from, and its names."""

    @classmethod
    def of(cls, block: Iterable[str], allow: Iterable[str] | None) -> Admission:
        """The given lists (`allow` None: no such list) and those of the environment.

        Raises `PluginError` for what is no distribution's name: a slip of the pen in such a list must not open it.
        """
        blocked = [*_checked(block, "block"), *names_in(os.environ.get(BLOCK_VARIABLE, ""), BLOCK_VARIABLE)]
        lists = [] if allow is None else [("the allow list", _checked(allow, "allow"))]
        if ALLOW_VARIABLE in os.environ:
            lists.append((ALLOW_VARIABLE, names_in(os.environ[ALLOW_VARIABLE], ALLOW_VARIABLE)))
        allowed = tuple((where, frozenset(map(normalised, names))) for where, names in lists)
        return cls(frozenset(map(normalised, blocked)), allowed)

    def refusal(self, distribution: str) -> str:
        """Why nothing of the distribution is loaded; empty when it may be."""
        name = normalised(distribution)
        if name in self.blocked:
            return f"distribution '{distribution}' is blocked"
        missing_on = [where for where, names in self.allowed if name not in names]
        if missing_on and name != OWN:
            return f"distribution '{distribution}' is not on {' nor on '.join(missing_on)}"
        return ""


def _checked(names: Iterable[str], place: str) -> list[str]:
    if isinstance(names, str):
        raise PluginError(f"{place}: expected a list of distribution names, not the text '{names}'")
    return [name for text in names for name in names_in(text, place)]
