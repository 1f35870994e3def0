"""Resolve the plugins of a recipe and validate their options, without building them or importing torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from hft_core import specs
from hft_core.errors import HftError, ModelError, PluginError, RecipeError, UsageError
from hft_core.file_guard import folder_problem
from hft_core.options import FOLDER_OF
from hft_core.plugins import provenance
from hft_core.plugins.catalogue import Catalogue, Entry, accepted
from hft_core.plugins.entries import one_line
from hft_core.recipe.backbone_opener import opener_of
from hft_core.recipe.did_you_mean import suggest_key
from hft_core.recipe.error_messages import KeyPath, in_one_line, model_at, problems
from hft_core.recipe.fields import PluginChoice
from hft_core.recipe.schema import BackboneChoice, Recipe, Task
from hft_core.recipe.stage import Stage
from hft_core.recipe.yaml_source import Source

Where = Callable[[KeyPath], str]
Plugin = TypeVar("Plugin")


@dataclass(frozen=True)
class Chosen:
    """A plugin chosen by a recipe, and its validated options."""

    entry: Entry
    options: BaseModel
    catalogue: Catalogue = field(repr=False, compare=False)

    def build(self, *, optional: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
        """Build the plugin with the `arguments` of its seam (see `hft_core.hooks`), and those of `optional` that its
        factory accepts.

        Raises `PluginError` when its module cannot be imported or its factory fails, and the factory's own `HftError`.
        """
        factory = self.catalogue.load_factory(self.entry)
        try:
            return factory(self.options, **arguments, **accepted(factory, optional or {}))
        except HftError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(f"{self.title} could not be made: {one_line(error)}") from error

    def build_a(self, kind: type[Plugin], *, optional: Mapping[str, Any] | None = None, **arguments: Any) -> Plugin:
        """Build the plugin, which must be a `kind`. Raises `PluginError`, also if it is not."""
        plugin = self.build(optional=optional, **arguments)
        if not isinstance(plugin, kind):
            returned = type(plugin).__name__
            raise PluginError(f"{self.title}: its factory returned a {returned}, expected a {kind.__name__}")
        return plugin

    @property
    def title(self) -> str:
        """The plugin in messages: `strategy 'lora' of hft-core 0.1.0`."""
        return f"{self.entry.seam} '{self.entry.name}' of {self.entry.provider.label}"


@dataclass(frozen=True)
class ResolvedStage:
    """A stage with its plugins; None for one that the recipe leaves out."""

    stage: Stage
    strategy: Chosen | None
    combiner: Chosen | None

    @property
    def merges(self) -> bool:
        """Whether the parameters that the strategy adds can be merged into the trunk."""
        if self.strategy is None:
            return True
        spec = self.strategy.entry.spec
        return bool(getattr(self.strategy.options, "merges", isinstance(spec, specs.StrategySpec) and spec.merges))


@dataclass(frozen=True)
class Resolved:
    """A recipe with all of its plugins. `recipe` has every default written out, so that saving it pins them."""

    recipe: Recipe
    backbone: Chosen
    heads: dict[str, Chosen]
    stages: tuple[ResolvedStage, ...]
    where: Where = field(repr=False, compare=False)
    """Names the place of a key, for errors found only with the data and the model."""

    def providers(self) -> list[dict[str, str]]:
        """Return the origin of each plugin in use: seam, name, distribution, version, and hash of a single file."""
        used = {(c.entry.seam, c.entry.name, c.entry.provider.distribution): c.entry for c in self.chosen()}
        return [provenance.origin(used[key]) for key in sorted(used)]

    def folds_after(self, index: int) -> bool:
        """Return whether the strategy of stage `index` is merged into the trunk at the end of the stage."""
        return index + 1 < len(self.stages) and not _continues(self.stages[index], self.stages[index + 1])

    def last_strategies(self) -> tuple[ResolvedStage, ...]:
        """Return the stages whose strategies are still unmerged in the finished model, in order."""
        last = len(self.stages) - 1
        return (*self.strategies_before(last), self.stages[last])

    def strategies_before(self, index: int) -> tuple[ResolvedStage, ...]:
        """Return the stages whose strategies are still unmerged when stage `index` begins, in order."""
        first = index
        while first > 0 and not self.folds_after(first - 1):
            first -= 1
        return self.stages[first:index]

    def chosen(self) -> Iterator[Chosen]:
        """Yield every plugin in use, some several times."""
        yield self.backbone
        yield from self.heads.values()
        for stage in self.stages:
            yield from (chosen for chosen in (stage.strategy, stage.combiner) if chosen is not None)


def resolve(recipe: Recipe, catalogue: Catalogue, where: Where | None = None) -> Resolved:
    """Resolve the plugins of `recipe` and validate their options; `where` names the place of a key (`Source.where`).

    Raises `PluginError` for a plugin that is unknown, unusable or rejects its options, and `RecipeError` for stages
    that cannot follow each other.
    """
    if sys.flags.optimize > 1:
        raise UsageError(
            "Python runs without docstrings (PYTHONOPTIMIZE=2 or -OO), which transformers needs when it is imported; "
            "expected PYTHONOPTIMIZE=1 or less"
        )
    resolver = _Resolver(catalogue, recipe.folder, where or Source.of(recipe.model_dump(mode="json")).where)
    backbone = resolver.backbone(recipe.backbone)
    heads = {name: resolver.chosen("head", task.head, ("tasks", name, "head")) for name, task in recipe.tasks.items()}
    stages = tuple(
        _stage(
            stage,
            resolver.optional("strategy", stage.strategy, ("stages", i, "strategy")),
            resolver.optional("combiner", stage.combiner, ("stages", i, "combiner")),
        )
        for i, stage in enumerate(recipe.stages)
    )
    resolver.check_order(stages)
    resolver.check_replay(recipe, heads)
    resolver.check_streams(recipe, heads)
    pinned = {
        "backbone": _pinned(recipe.backbone, backbone),
        "tasks": {
            name: task.model_copy(update={"head": _pinned(task.head, heads[name])})
            for name, task in recipe.tasks.items()
        },
        "stages": tuple(stage.stage for stage in stages),
    }
    return Resolved(recipe.model_copy(update=pinned), backbone, heads, stages, resolver.where)


def choose(catalogue: Catalogue, seam: str, choice: PluginChoice, place: str) -> Chosen:
    """Resolve one plugin outside a recipe. Raises `PluginError` that begins with `place`."""
    return _Resolver(catalogue, Path.cwd(), lambda path: place).chosen(seam, choice, ())


class _Resolver:
    """Resolves plugins, with errors that name the place of the key."""

    def __init__(self, catalogue: Catalogue, folder: Path, where: Where) -> None:
        self.catalogue = catalogue
        self.folder = folder
        self.where = where

    def optional(self, seam: str, choice: PluginChoice | None, path: KeyPath) -> Chosen | None:
        return None if choice is None else self.chosen(seam, choice, path)

    def chosen(self, seam: str, choice: PluginChoice, path: KeyPath) -> Chosen:
        try:
            entry = self.catalogue.get(seam, choice.type)
            model = self.catalogue.load_options(entry)
        except PluginError as error:
            raise PluginError(f"{self.where(path)}: {' '.join(str(error).split())}") from error
        return Chosen(entry, self.options(entry, model, choice, path), self.catalogue)

    def options(self, entry: Entry, model: type[BaseModel], choice: PluginChoice, path: KeyPath) -> BaseModel:
        """Validate the options with the plugin's model; unknown ones are errors unless the model allows extras."""
        extra: Literal["forbid"] | None = None if model.model_config.get("extra") == "allow" else "forbid"

        def folder_of(option: str) -> Path:
            from_shell = self.where((*path, "options", option)).startswith("--")
            return Path.cwd() if from_shell else self.folder

        try:
            return model.model_validate(choice.options, extra=extra, context={FOLDER_OF: folder_of})
        except ValidationError as error:
            raise PluginError(self.options_message(entry, model, error, path)) from None
        except Exception as error:
            title = f"{entry.seam} '{entry.name}' of {entry.provider.label}"
            raise PluginError(f"{self.where(path)}: {title} failed to read its options: {one_line(error)}") from error

    def options_message(self, entry: Entry, model: type[BaseModel], error: ValidationError, path: KeyPath) -> str:
        title = f"{entry.seam} '{entry.name}'"
        lines = []
        for problem in problems(error, model):
            key = (*path, "options", *problem.path)
            if problem.kind == "unknown":
                owner = model_at(model, problem.path[:-1])
                known = set(owner.model_fields) if owner else set()
                known |= set(Task.model_fields) if entry.seam == "head" and len(problem.path) == 1 else set()
                name = str(problem.path[-1])
                lines.append((self.where(key), f"{title} has no option '{name}'.{suggest_key(name, known)}"))
            elif problem.kind == "missing":
                lines.append((self.where(key[:-1]), f"{title} needs the option '{problem.path[-1]}'"))
            else:
                lines.append((self.where(key), f"{title}: {problem.text}"))
        return in_one_line(lines)

    def backbone(self, choice: BackboneChoice) -> Chosen:
        model = choice.options.get("model")
        if isinstance(model, str) and (problem := folder_problem(model)):
            raise ModelError(f"{self.where(('backbone', 'options', 'model'))}: {' '.join(problem.split())}")
        if choice.type:
            return self.chosen("backbone", choice, ("backbone",))
        if not isinstance(model, str) or not model:
            raise RecipeError(f"{self.where(('backbone',))}: 'model' is missing (a local folder or file, or a hub id)")
        name = opener_of(self.catalogue, model, self.where(("backbone", "options", "model")))
        return self.chosen("backbone", choice.model_copy(update={"type": name}), ("backbone",))

    def check_order(self, stages: tuple[ResolvedStage, ...]) -> None:
        """Raise `RecipeError` if a stage follows one whose strategy cannot be merged into the trunk."""
        for i, (stage, following) in enumerate(pairwise(stages)):
            spec = stage.strategy.entry.spec if stage.strategy else None
            if spec is not None and not stage.merges and not _continues(stage, following):
                raise RecipeError(
                    f"{self.where(('stages', i, 'strategy'))}: strategy '{spec.name}' adds parts that cannot be merged "
                    f"into the trunk, so that stage '{following.stage.name}' cannot follow; make it the last stage"
                )

    def check_replay(self, recipe: Recipe, heads: Mapping[str, Chosen]) -> None:
        """Raise `RecipeError` if a supervised task is replayed."""
        for name, task in recipe.tasks.items():
            spec = heads[name].entry.spec
            if task.replay and isinstance(spec, specs.HeadSpec) and spec.needs_labels:
                raise RecipeError(
                    f"{self.where(('tasks', name, 'replay'))}: only a self-supervised task can be replayed, and head "
                    f"'{spec.name}' needs labels; give the task its share by 'sampling'"
                )

    def check_streams(self, recipe: Recipe, heads: Mapping[str, Chosen]) -> None:
        """Raise `RecipeError` if the rows of a head that needs all of them at once are a stream."""
        for name, task in recipe.tasks.items():
            if task.data is not None and task.data.stream and not _streams(heads[name].entry):
                able = ", ".join(f"'{entry.name}'" for entry in self.catalogue.seam("head") if _streams(entry))
                place, head = self.where(("tasks", name, "data", "stream")), heads[name].entry.name
                raise RecipeError(
                    f"{place}: head '{head}' reads all of its rows before training; heads that learn from a stream: "
                    f"{able or 'none'}"
                )


def _streams(entry: Entry) -> bool:
    return isinstance(entry.spec, specs.HeadSpec) and entry.spec.streams


def _continues(stage: ResolvedStage, following: ResolvedStage) -> bool:
    """Return whether the strategy of the following stage continues this one's without merging."""
    spec = following.strategy.entry.spec if following.strategy else None
    if not isinstance(spec, specs.StrategySpec) or stage.strategy is None:
        return False
    return stage.strategy.entry.name in spec.continues


def _pinned(choice: PluginChoice, chosen: Chosen) -> PluginChoice:
    """Return the choice with its type and every option written out."""
    options = chosen.options.model_dump(mode="json", by_alias=True)
    return choice.model_copy(update={"type": choice.type or chosen.entry.name, "options": options})


def _stage(stage: Stage, strategy: Chosen | None, combiner: Chosen | None) -> ResolvedStage:
    """Return the stage with its plugins' options written out."""
    pinned: dict[str, Any] = {
        "strategy": stage.strategy and strategy and _pinned(stage.strategy, strategy),
        "combiner": stage.combiner and combiner and _pinned(stage.combiner, combiner),
    }
    return ResolvedStage(stage.model_copy(update=pinned), strategy, combiner)
