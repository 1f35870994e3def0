"""What is asked of a sweep, from flags or a `sweep.yaml`, and how its folder keeps it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hft_core.errors import RecipeError, UsageError, did_you_mean
from hft_core.recipe import recipe_file
from hft_core.runtime.files import write_json
from hft_core.studies import search_space

PLAN_FILE = "plan.json"
KEYS = ("recipe", "search", "trials", "pruner", "objective")
"""Of a `sweep.yaml`."""
TRIALS = 20
PRUNERS = ("median", "hyperband", "none")


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep does."""

    recipe: str
    """The path of the recipe."""
    search: tuple[str, ...]
    """Dimensions as flags name them."""
    trials: int = TRIALS
    pruner: str = PRUNERS[0]
    objective: str | None = None
    """The task whose main dev metric counts; None: the mean over all tasks with labels."""

    def write(self, folder: Path) -> None:
        write_json(folder / PLAN_FILE, asdict(self))


def request(
    path: Path, search: Sequence[str], trials: int | None, pruner: str | None, objective: str | None
) -> SweepPlan:
    """Return what is asked of a recipe file, or of a `sweep.yaml`, whose keys the other arguments replace.

    Raises `UsageError` (and its kinds).
    """
    source = recipe_file.read(path)
    data: dict[str, Any] = source.data if {"recipe", "search"} & source.data.keys() else {}
    for key in data:
        if key not in KEYS:
            raise RecipeError(f"{source.where((key,))}: a sweep has no key '{key}'.{did_you_mean(key, KEYS)}")
    if data and not isinstance(data.get("recipe"), str):
        raise RecipeError(f"{path}: expected 'recipe' (a path) and 'search' (key paths with their values)")
    listed = search_space.assignments_of(data["search"], f"{path}, search") if "search" in data and not search else ()
    many = data.get("trials", TRIALS) if trials is None else trials
    if not isinstance(many, int) or isinstance(many, bool) or many < 1:
        raise UsageError(f"{path}, trials: found {many!r}, expected a number of 1 or more")
    chosen = str(pruner or data.get("pruner") or PRUNERS[0])
    if chosen not in PRUNERS:
        raise UsageError(f"there is no pruner '{chosen}'.{did_you_mean(chosen, PRUNERS)}")
    recipe = (path.parent / data["recipe"] if data else path).resolve()
    return SweepPlan(str(recipe), (*search, *listed), many, chosen, objective or data.get("objective"))


def kept(folder: Path, trials: int | None) -> SweepPlan:
    """Return the plan of the sweep in `folder`, with another number of trials if one is given. Raises `UsageError`."""
    path = folder / PLAN_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        plan = SweepPlan(**{**data, "search": tuple(data["search"])})
    except FileNotFoundError:
        raise UsageError(f"'{folder}' holds no sweep to resume: it has no {PLAN_FILE}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: this plan cannot be read: {error}") from error
    return plan if trials is None else replace(plan, trials=trials)
