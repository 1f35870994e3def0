"""The values that a sweep chooses from: ranges and choices by key path, checked against the recipe and its plugins."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hft_core.errors import RecipeError, UsageError, did_you_mean
from hft_core.recipe.names import normalized
from hft_core.recipe.overrides import set_value
from hft_core.recipe.recipe_file import validate
from hft_core.recipe.resolve import resolve
from hft_core.recipe.yaml_source import Source, parse_value
from hft_core.studies.arms import divide

if TYPE_CHECKING:
    import optuna

    from hft_core.plugins.catalogue import Catalogue

FORM = "expected PATH=log:LOW:HIGH, PATH=float:LOW:HIGH, PATH=int:LOW:HIGH or PATH=VALUE,VALUE,…, and @PLUGIN behind it"
KINDS = ("log", "float", "int")
SEAMS = ("strategy", "combiner", "head")
"""Last keys of the paths at which a plugin is chosen."""
_RANGE = re.compile(r"(log|float|int):([^:]*):([^:]*)")


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, both included."""

    kind: str
    """One of `KINDS`; `log`: the logarithm is uniform."""
    low: float
    high: float

    @property
    def ends(self) -> tuple[str, ...]:
        return tuple(self.text(value) for value in (self.low, self.high))

    def text(self, value: float) -> str:
        """Write a value as in YAML."""
        return str(int(value)) if self.kind == "int" else repr(float(value))


@dataclass(frozen=True)
class Dimension:
    """One key of the recipe that a sweep chooses the value of."""

    path: str
    values: Range | tuple[str, ...]
    """A range, or choices as YAML."""
    label: str
    """What errors begin with."""
    plugins: tuple[str, ...] = ()
    """The key is an option of these plugins, and is set where one of them is chosen; empty: always."""
    above: str = ""
    """The path at which another dimension chooses the plugin."""

    @property
    def name(self) -> str:
        """What its values are kept under."""
        return f"{self.path}@{','.join(self.plugins)}" if self.plugins else self.path

    @property
    def ends(self) -> tuple[str, ...]:
        """The values that show whether all fit: the bounds of a range, or every choice."""
        return self.values.ends if isinstance(self.values, Range) else self.values

    def suggest(self, trial: optuna.Trial) -> str:
        """Return the value that a trial tries, as YAML."""
        if not isinstance(self.values, Range):
            return str(trial.suggest_categorical(self.name, self.values))
        if self.values.kind == "int":
            return str(trial.suggest_int(self.name, int(self.values.low), int(self.values.high)))
        found = trial.suggest_float(self.name, self.values.low, self.values.high, log=self.values.kind == "log")
        return self.values.text(found)


def parse(assignments: Iterable[str]) -> list[Dimension]:
    """Return the dimensions of `PATH=log:1e-5:1e-2`, `PATH=a,b`, `PATH=int:4:64@lora`. Raises `UsageError`."""
    found: list[Dimension] = []
    for assignment in assignments:
        label = f"--search {assignment}"
        path, equals, text = assignment.partition("=")
        path, text = normalized(path.strip()), text.strip()
        plugins: tuple[str, ...] = ()
        if match := re.fullmatch(r"(.*\S)\s*@([\w:.-]+)", text):
            text, plugins = match[1], (match[2],)
        if not equals or not path or not text:
            raise UsageError(f"{label}: {FORM}")
        dimension = Dimension(path, _values(text, label), label, plugins)
        if any(other.name == dimension.name for other in found):
            raise UsageError(f"{label}: '{dimension.name}' is searched twice")
        found.append(dimension)
    return found


def _values(text: str, label: str) -> Range | tuple[str, ...]:
    if match := _RANGE.fullmatch(text):
        return _range(match[1], match[2], match[3], label)
    if text.partition(":")[0] in KINDS:
        raise UsageError(f"{label}: {FORM}")
    choices = tuple(choice.strip() for choice in divide(text))
    if not all(choices) or len(set(choices)) < len(choices):
        raise UsageError(f"{label}: a value is empty or there twice; {FORM}")
    return choices


def _range(kind: str, low: Any, high: Any, label: str) -> Range:
    try:
        bounds = [int(value) if kind == "int" else float(value) for value in (low, high)]
    except ValueError:
        expected = "whole numbers" if kind == "int" else "numbers"
        raise UsageError(f"{label}: found {low} and {high}, expected {expected}") from None
    if not bounds[0] < bounds[1] < float("inf"):
        raise UsageError(f"{label}: expected a lower bound below the upper one, not {low} and {high}")
    if kind == "log" and bounds[0] <= 0:
        raise UsageError(f"{label}: a logarithmic range begins above 0, not at {low}")
    return Range(kind, *bounds)


def assignments_of(search: Any, place: str) -> list[str]:
    """Return what a YAML mapping says in the form of flags: lists are choices, `{log: [1e-5, 1e-2]}` a range.

    Raises `RecipeError` that begins with `place`.
    """
    if not isinstance(search, dict) or not search:
        raise RecipeError(f"{place}: expected key paths with lists of values, or with {{log: [LOW, HIGH]}}")
    found = []
    for key, values in search.items():
        path, at, plugin = str(key).partition("@")
        if isinstance(values, dict) and len(values) == 1 and (kind := next(iter(values))) in KINDS:
            bounds = values[kind]
            if not isinstance(bounds, list) or len(bounds) != 2:
                raise RecipeError(f"{place}, {key}: expected {{{kind}: [LOW, HIGH]}}")
            text = f"{kind}:{bounds[0]}:{bounds[1]}"
        elif isinstance(values, list) and values:
            text = ",".join(json.dumps(value) for value in values)
        else:
            raise RecipeError(
                f"{place}, {key}: expected a list of values, or one of {{log: …}}, {{float: …}}, {{int: …}}"
            )
        found.append(f"{path}={text}{at}{plugin}")
    return found


def checked(dimensions: Sequence[Dimension], source: Source, catalogue: Catalogue) -> list[Dimension]:
    """Return the dimensions in the order in which they are chosen, plugins before their options, after trying the ends
    of each in the recipe `source`.

    An option of a plugin that is chosen too is set only where a plugin that has the option is chosen. Raises
    `UsageError` and its kinds, with the dimension.
    """
    if not dimensions:
        raise UsageError("nothing to search: give --search PATH=… or 'search' in a sweep.yaml")
    ordered: list[Dimension] = []
    for dimension in sorted(dimensions, key=lambda each: each.path.count(".")):
        above = next((each for each in ordered if _chooses(each) and dimension.path.startswith(f"{each.path}.")), None)
        if above is None:
            if dimension.plugins:
                raise UsageError(f"{dimension.label}: no --search chooses the plugin of '{dimension.path}'")
            for end in dimension.ends:
                _try(source, catalogue, [(dimension, end)])
            ordered.append(dimension)
            continue
        dimension = _with_plugins(dimension, above, catalogue)
        for choice in above.ends:
            if _plugin(choice) in dimension.plugins:
                for end in dimension.ends:
                    _try(source, catalogue, [(above, choice), (dimension, end)])
        ordered.append(dimension)
    return ordered


def _chooses(dimension: Dimension) -> bool:
    return dimension.path.rpartition(".")[2] in SEAMS and not isinstance(dimension.values, Range)


def _plugin(choice: str) -> str:
    """Return the plugin that a choice names, alone or with options."""
    value = parse_value(choice, choice)
    return str(value.get("type", "")) if isinstance(value, dict) else str(value)


def _with_plugins(dimension: Dimension, above: Dimension, catalogue: Catalogue) -> Dimension:
    """Return the dimension with the plugins whose option it is."""
    seam, names = above.path.rpartition(".")[2], list(dict.fromkeys(map(_plugin, above.ends)))
    if unknown := next((name for name in dimension.plugins if name not in names), None):
        raise UsageError(
            f"{dimension.label}: '{unknown}' is not among the plugins that are searched.{did_you_mean(unknown, names)}"
        )
    option = dimension.path.removeprefix(f"{above.path}.").partition(".")[0]
    options: dict[str, Mapping[str, Any]] = {
        name: catalogue.load_options(catalogue.get(seam, name)).model_fields for name in names
    }
    having = dimension.plugins or tuple(name for name in names if option in options[name])
    if not having or (dimension.plugins and option not in options[having[0]]):
        known = {key for name in (having or names) for key in options[name]}
        shown = ", ".join(f"'{name}'" for name in having or names)
        raise UsageError(f"{dimension.label}: {shown}: no option '{option}'.{did_you_mean(option, known)}")
    return replace(dimension, plugins=having, above=above.path)


def _try(source: Source, catalogue: Catalogue, values: Sequence[tuple[Dimension, str]]) -> None:
    for dimension, text in values:
        source = set_value(source, dimension.path.split("."), parse_value(text, dimension.label), dimension.label)
    resolve(validate(source), catalogue, source.where)


def suggested(trial: optuna.Trial, dimensions: Sequence[Dimension]) -> dict[str, str]:
    """Return the values of a trial as YAML by key path, plugins before their options."""
    chosen: dict[str, str] = {}
    for dimension in dimensions:
        if not dimension.above or _plugin(chosen[dimension.above]) in dimension.plugins:
            chosen[dimension.path] = dimension.suggest(trial)
    return chosen
