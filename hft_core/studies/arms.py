"""The arms of a study: named sets of overrides of one recipe, from `--vary`, a `compare.yaml` or Python."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hft_core.errors import RecipeError, UsageError, did_you_mean

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue
    from hft_core.recipe.schema import Recipe
    from hft_core.recipe.yaml_source import Source

KEYS = ("recipe", "arms", "vary", "against", "seeds", "controls", "tune")
"""Of a `compare.yaml`."""
MOST_ARMS = 200
TUNED_KEY, MOST_TRIES = "learning_rate", 9


@dataclass(frozen=True)
class Arm:
    """One way to train that a study compares."""

    name: str
    recipe: Recipe
    """As it is run, but for the seed."""
    overrides: tuple[str, ...] = ()
    """`KEY.PATH=VALUE` each, on the study's recipe."""
    control: str = ""
    """What it controls for, in words; empty for an arm that was asked for."""


@dataclass(frozen=True)
class Request:
    """What is asked of a study, before any recipe is read."""

    recipe: Path
    arms: Mapping[str, Sequence[str]]
    """Overrides by the name of the arm."""
    against: str = ""
    """The reference arm; the first by default."""
    seeds: tuple[int, ...] = ()
    """Empty: five, or those of the study that is resumed."""
    controls: tuple[str, ...] | None = None
    """Kinds of controls; None: all."""
    tries: int = 0
    """Of each arm's learning rate, before it is compared; 0: the rates that the recipes have."""
    launcher: str = ""
    """Where runs are computed, as `--launcher` takes it; empty: on this machine."""


def vary(assignments: Sequence[str]) -> dict[str, list[str]]:
    """Return the arms of all combinations of `PATH=a,b,c`, named by their values. Raises `UsageError`."""
    axes: list[list[tuple[str, str]]] = []
    for assignment in assignments:
        path, equals, values = assignment.partition("=")
        choices = [value.strip() for value in divide(values)]
        if not equals or not path.strip() or not all(choices):
            raise UsageError(f"--vary {assignment}: expected KEY.PATH=VALUE,VALUE,…")
        if len(set(choices)) < len(choices):
            raise UsageError(f"--vary {assignment}: a value is there twice")
        axes.append([(path.strip(), value) for value in choices])
    arms: dict[str, list[str]] = {}
    for combination in itertools.product(*axes) if axes else ():
        name = "-".join(_word(value) for _, value in combination)
        name = name if name not in arms else f"{name}-{len(arms) + 1}"
        arms[name] = [f"{path}={value}" for path, value in combination]
    return arms


def read(path: Path) -> Request:
    """Read a `compare.yaml`. Raises `RecipeError` that names the file."""
    from hft_core.recipe import recipe_file

    source = recipe_file.read(path)
    data: dict[str, Any] = source.data
    for key in data:
        if key not in KEYS:
            raise RecipeError(f"{source.where((key,))}: a comparison has no key '{key}'.{did_you_mean(key, KEYS)}")
    recipe, arms = data.get("recipe"), data.get("arms") or {}
    if not isinstance(recipe, str) or not isinstance(arms, dict):
        raise RecipeError(f"{path}: expected 'recipe' (a path) and 'arms' (names with their overrides)")
    named = {str(name): list(_assignments(overrides, source, str(name))) for name, overrides in arms.items()}
    varied = data.get("vary") or {}
    if not isinstance(varied, dict) or not all(isinstance(values, list) for values in varied.values()):
        raise RecipeError(f"{path}, vary: expected lists of values by key path")
    listed = [f"{key}={','.join(json.dumps(value) for value in values)}" for key, values in varied.items()]
    return Request(
        recipe=path.parent / recipe,
        arms=named | vary(listed),
        against=str(data.get("against") or ""),
        seeds=seeds_of(data["seeds"], f"{path}, seeds") if data.get("seeds") is not None else (),
        controls=None if data.get("controls") is None else tuple(map(str, data["controls"] or ())),
        tries=_tries(data.get("tune"), path),
    )


def _tries(tune: Any, path: Path) -> int:
    if tune is not None and (not isinstance(tune, dict) or len(tune) != 1):
        raise RecipeError(f"{path}, tune: found {tune!r}, expected {{{TUNED_KEY}: N}}")
    return tries_of("=".join(map(str, next(iter(tune.items()))))) if tune else 0


def _assignments(overrides: Any, source: Source, name: str) -> Iterator[str]:
    if overrides is not None and not isinstance(overrides, dict):
        raise RecipeError(f"{source.where(('arms', name))}: expected overrides, KEY.PATH: VALUE each")
    for path, value in (overrides or {}).items():
        yield f"{path}={json.dumps(value)}"


def seeds_of(value: Any, place: str) -> tuple[int, ...]:
    """Return the seeds from a number of them or a list. Raises `UsageError`."""
    seeds = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    whole = isinstance(seeds, list | tuple) and all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"{place}: found {value!r}, expected how many seeds, or a list of different ones")
    return tuple(seeds)


def tries_of(assignment: str) -> int:
    """Return how many tries of its learning rate each arm has, from `learning_rate=N`. Raises `UsageError`."""
    key, equals, count = (part.strip() for part in assignment.partition("="))
    if equals and key != TUNED_KEY:
        raise UsageError(
            f"--tune {assignment}: '{key}' is not tuned, expected {TUNED_KEY}=N.{did_you_mean(key, [TUNED_KEY])}"
        )
    if not equals or not count.isdecimal() or not 2 <= int(count) <= MOST_TRIES:
        raise UsageError(f"--tune {assignment}: expected {TUNED_KEY}=N, with 2 to {MOST_TRIES} tries for each arm")
    return int(count)


def build(request: Request, catalogue: Catalogue) -> list[Arm]:
    """Build the recipes of all arms that were asked for. Raises `UsageError` for a study that compares nothing."""
    from hft_core.recipe import recipe_file

    source = recipe_file.read(request.recipe)
    if not request.arms:
        raise UsageError("nothing to compare: give --vary KEY.PATH=VALUE,VALUE or 'arms' in a compare.yaml")
    if len(request.arms) > MOST_ARMS:
        raise UsageError(f"{len(request.arms)} arms, expected at most {MOST_ARMS}")
    arms = [
        Arm(name, _recipe(source, overrides, name, catalogue), tuple(overrides))
        for name, overrides in request.arms.items()
    ]
    if request.against and request.against not in request.arms:
        raise UsageError(f"no arm is called '{request.against}'.{did_you_mean(request.against, request.arms)}")
    return arms


def _recipe(source: Source, overrides: Sequence[str], name: str, catalogue: Catalogue) -> Recipe:
    """Return an arm's recipe, all paths absolute, all tasks split by the recipe's own seed. Raises `RecipeError`."""
    from hft_core.recipe import recipe_file
    from hft_core.recipe.resolve import resolve

    _check_name(name)
    changed = recipe_file.override(source, overrides)
    try:
        recipe = resolve(recipe_file.validate(changed), catalogue, changed.where).recipe
    except UsageError as error:
        raise type(error)(f"arm '{name}': {error}") from None
    return with_fixed_splits(recipe)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.+-]{0,99}", name):
        raise RecipeError(f"the arm '{name}' names a folder: expected letters, digits, '-', '_', '.' or '+'")


def with_fixed_splits(recipe: Recipe) -> Recipe:
    """Return the recipe with the seed of its splits given, so that all seeds of a study have the same test rows."""
    tasks = {}
    for name, task in recipe.tasks.items():
        data = task.data
        if data is not None and data.is_divided and data.split.seed is None:
            split = data.split.model_copy(update={"seed": recipe.seed})
            task = task.model_copy(update={"data": data.model_copy(update={"split": split})})
        tasks[name] = task
    return recipe.model_copy(update={"tasks": tasks})


def divide(values: str) -> list[str]:
    """Split at the commas that are in no brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for character in values:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(character, 0) if not quote else 0
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _word(value: str) -> str:
    """Return a value as a part of an arm's name."""
    return re.sub(r"[^\w.+]+", "_", value.strip("\"'{}[] ")).strip("_") or "none"
