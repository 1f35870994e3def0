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
KEYS = ("recipe", "search", "trials", "pruner", "objective", "seeds", "minimize")
"""Of a `sweep.yaml`."""
TRIALS = 20
WILCOXON_SEEDS = 5
"""Four runs give the signed-rank test the first p below 0.1; a trial of four has none left to save."""
COSTS = ("seconds", "parameters", "memory")
"""Training time, trunk parameters that train in the last stage, and the most memory in bytes."""
PRUNERS = ("median", "hyperband", "wilcoxon", "none")


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
    seeds: int = 1
    """Runs of a trial, whose mean counts."""
    minimize: tuple[str, ...] = ()
    """Costs (`COSTS`) that count beside the metric."""

    def write(self, folder: Path) -> None:
        write_json(folder / PLAN_FILE, asdict(self))


def request(
    path: Path,
    search: Sequence[str],
    trials: int | None = None,
    pruner: str | None = None,
    objective: str | None = None,
    *,
    seeds: int | None = None,
    minimize: Sequence[str] = (),
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
    many = _count(data.get("trials", TRIALS) if trials is None else trials, f"{path}, trials")
    runs = _count(data.get("seeds", 1) if seeds is None else seeds, f"{path}, seeds")
    costs = tuple(dict.fromkeys(minimize or _names(data.get("minimize"), f"{path}, minimize")))
    for cost in costs:
        if cost not in COSTS:
            raise UsageError(f"there is no cost '{cost}' to minimize.{did_you_mean(cost, COSTS)}")
    recipe = (path.parent / data["recipe"] if data else path).resolve()
    return SweepPlan(
        str(recipe),
        (*search, *listed),
        many,
        _pruner(pruner or data.get("pruner"), runs, costs),
        objective or next(iter(_names(data.get("objective"), f"{path}, objective")), None),
        runs,
        costs,
    )


def _count(found: Any, where: str) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UsageError(f"{where}: found {found!r}, expected a number of 1 or more")
    return found


def _names(found: Any, where: str) -> list[str]:
    """Return a name or a list of names. Raises `RecipeError`."""
    names = [] if found is None else [found] if isinstance(found, str) else found
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RecipeError(f"{where}: found {found!r}, expected a name or a list of names")
    return names


def _pruner(name: str | None, seeds: int, costs: Sequence[str]) -> str:
    """Return the pruner, by default the one that goes with so many seeds and costs. Raises `UsageError`."""
    default = "median" if seeds == 1 else "wilcoxon" if seeds >= WILCOXON_SEEDS else "none"
    default = "none" if costs else default
    chosen = default if name is None else str(name)
    if chosen not in PRUNERS:
        raise UsageError(f"there is no pruner '{chosen}'.{did_you_mean(chosen, PRUNERS)}")
    if costs and chosen != "none":
        raise UsageError(f"'{chosen}' prunes by one value: with --minimize, the pruner is none")
    if chosen == "wilcoxon" and seeds < WILCOXON_SEEDS:
        raise UsageError(f"'wilcoxon' ends no trial before its fourth run: give --seeds {WILCOXON_SEEDS} or more")
    if chosen in ("median", "hyperband") and seeds > 1:
        raise UsageError(f"'{chosen}' prunes by the evaluations of one run: with --seeds, expected wilcoxon or none")
    return chosen


def kept(folder: Path, trials: int | None) -> SweepPlan:
    """Return the plan of the sweep in `folder`, with another number of trials if one is given. Raises `UsageError`."""
    path = folder / PLAN_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        plan = SweepPlan(**{**data, "search": tuple(data["search"]), "minimize": tuple(data.get("minimize", ()))})
    except FileNotFoundError:
        raise UsageError(f"'{folder}' holds no sweep to resume: it has no {PLAN_FILE}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: this plan cannot be read: {error}") from error
    return plan if trials is None else replace(plan, trials=trials)
