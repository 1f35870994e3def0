"""Decide which installed distributions may provide plugins, by a block list and allow lists.

Distributions that are not admitted are not imported. The environment variables can only narrow what a host or a command
line admits.
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
"""Environment variable with a comma-separated list of distributions whose plugins are not loaded."""

ALLOW_VARIABLE = "HFT_ALLOW"
"""Environment variable with the only distributions, besides `OWN`, whose plugins are loaded. Set but empty, it admits
no third party."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
"""The form of a distribution name in the packaging standards."""


def normalized(distribution: str) -> str:
    """Normalize a distribution name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def parse_names(text: str, source: str) -> list[str]:
    """Parse a comma-separated list of distribution names. Raises `PluginError`, which names `source`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not _NAME.fullmatch(name):
            raise PluginError(
                f"{source}: {name!r} is not the name of a distribution (letters, digits, '-', '_' and '.')"
            )
    return names


@dataclass(frozen=True)
class Allowlist:
    """The distributions that are blocked, and the allow lists."""

    blocked: frozenset[str]
    allowed: tuple[tuple[str, frozenset[str]], ...]
    """The source and the names of each allow list; a distribution must be on all of them."""

    @classmethod
    def of(cls, block: Iterable[str], allow: Iterable[str] | None) -> Allowlist:
        """Combine the given lists (`allow` None: no such list) with those of the environment.

        Raises `PluginError` for an invalid name, so that a typo cannot open a list.
        """
        blocked = [*_checked(block, "block"), *parse_names(os.environ.get(BLOCK_VARIABLE, ""), BLOCK_VARIABLE)]
        lists = [] if allow is None else [("the allow list", _checked(allow, "allow"))]
        if ALLOW_VARIABLE in os.environ:
            lists.append((ALLOW_VARIABLE, parse_names(os.environ[ALLOW_VARIABLE], ALLOW_VARIABLE)))
        allowed = tuple((source, frozenset(map(normalized, names))) for source, names in lists)
        return cls(frozenset(map(normalized, blocked)), allowed)

    def refusal(self, distribution: str) -> str:
        """Return why the distribution is not loaded; empty when it is admitted."""
        name = normalized(distribution)
        if name in self.blocked:
            return f"distribution '{distribution}' is blocked"
        missing_on = [source for source, names in self.allowed if name not in names]
        if missing_on and name != OWN:
            return f"distribution '{distribution}' is not on {' nor on '.join(missing_on)}"
        return ""


def _checked(names: Iterable[str], source: str) -> list[str]:
    if isinstance(names, str):
        raise PluginError(f"{source}: expected a list of distribution names, not the text '{names}'")
    return [name for text in names for name in parse_names(text, source)]
