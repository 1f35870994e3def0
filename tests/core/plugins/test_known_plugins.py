from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

from hft_core.plugins.discovery import collect_specs
from hft_core.plugins.entries import Provider
from hft_core.plugins.known_plugins import known_distributions, known_owners
from hft_core.specs import NAME, SEAMS

CONTRIB = Path(__file__).parents[3] / "contrib"
PACKAGES = sorted(path.parent.name for path in CONTRIB.glob("*/pyproject.toml"))


def test_names_are_names_and_no_plugin_is_listed_twice() -> None:
    for known in known_distributions():
        assert re.fullmatch(r"hft-[a-z0-9-]+", known.name)
        assert set(known.plugins) <= set(SEAMS)
        assert all(NAME.fullmatch(name) for names in known.plugins.values() for name in names)
    for seam in SEAMS:
        names = [name for known in known_distributions() for name in known.plugins.get(seam, ())]
        assert len(names) == len(set(names)) == len(known_owners(seam))


@pytest.mark.skipif(not PACKAGES, reason="only in a checkout: contrib is no part of the distribution")
def test_it_lists_the_distributions_kept_here_with_all_that_they_have() -> None:
    listed = {
        known.name: {seam: set(names) for seam, names in known.plugins.items()} for known in known_distributions()
    }
    assert {name: listed.get(name) for name in PACKAGES} == {name: offered(CONTRIB / name) for name in PACKAGES}


def offered(folder: Path) -> dict[str, set[str]]:
    """The names by seam of what a distribution's entry modules hold, which are light."""
    points = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]["hft"]
    found: dict[str, set[str]] = {}
    for module in points.values():
        spec = importlib.util.spec_from_file_location(module, folder / module / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        kept = sys.modules.get(module)
        sys.modules[module] = made
        try:
            spec.loader.exec_module(made)
        finally:
            if kept is None:
                del sys.modules[module]
            else:
                sys.modules[module] = kept
        for entry in collect_specs(made, Provider(folder.name)).entries:
            found.setdefault(entry.seam, set()).add(entry.name)
    return found
