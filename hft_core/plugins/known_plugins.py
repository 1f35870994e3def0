"""Read the index of known plugin distributions, `known_plugins.json`.

The list ships with hft-core, so that a message can name the package that has a plugin. Nothing is fetched or installed.
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
    """One distribution of the index."""

    name: str
    summary: str
    plugins: Mapping[str, tuple[str, ...]]
    """Plugin names by seam."""


@cache
def known_distributions() -> tuple[KnownDistribution, ...]:
    """Return the index in its own order."""
    distributions = json.loads(FILE.read_text(encoding="utf-8"))["distributions"]
    return tuple(
        KnownDistribution(item["name"], item["summary"], {seam: tuple(n) for seam, n in item["plugins"].items()})
        for item in distributions
    )


def known_owners(seam: str) -> dict[str, str]:
    """Return the distribution of each known plugin of a seam, by the plugin's name."""
    return {name: known.name for known in known_distributions() for name in known.plugins.get(seam, ())}
