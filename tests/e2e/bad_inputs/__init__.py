"""Bad inputs of every kind, with what `hft` says to each: the tests try them, and a page of the reference shows them.

The tests are no package, so that this one is loaded by its path (see `tests/e2e/test_bad_input.py`).
"""

from __future__ import annotations

from . import data_files, environment, flags, indexes, lookalikes, models, plugins, recipes, run_folders
from .case import Case
from .surroundings import RECIPE, ROWS, Surroundings, inside

__all__ = ["RECIPE", "ROWS", "TABLE", "Case", "Surroundings", "inside"]

TABLE: dict[str, list[Case]] = {
    "recipe": recipes.CASES,
    "data": [*data_files.CASES, *lookalikes.CASES],
    "model": models.CASES,
    "plugin": plugins.CASES,
    "run folder": run_folders.CASES,
    "index": indexes.CASES,
    "flags": flags.CASES,
    "environment": environment.CASES,
}
"""By where the bad thing is."""
