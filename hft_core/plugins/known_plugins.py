"""The index of known plugin distributions, `known_plugins.json`; light.

A fixed list that comes with hft-core: nothing is fetched, and nothing is ever installed. It is there so that a message
may name the package that has a plugin, instead of a guess that a stranger could have registered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("known_plugins.json")


@dataclass(frozen=True)
class KnownDistribution:
    """One line of the index."""

    name: str
    summary: str
    plugins: Mapping[str, tuple[str, ...]]
    """Names by seam."""


@cache
def known_distributions() -> tuple[KnownDistribution, ...]:
    """The index in its own order."""
    listed = json.loads(FILE.read_text(encoding="utf-8"))["distributions"]
    return tuple(
        KnownDistribution(item["name"], item["summary"], {seam: tuple(n) for seam, n in item["plugins"].items()})
        for item in listed
    )


def known_owners(seam: str) -> dict[str, str]:
    """The distribution of each known plugin of a seam, by the plugin's name."""
    return {name: known.name for known in known_distributions() for name in known.plugins.get(seam, ())}
