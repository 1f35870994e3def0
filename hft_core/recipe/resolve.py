"""A recipe checked against the plugins: which ones it means, with which options. Imports no torch by itself.

Nothing is built here: `Chosen.build` does that when a run begins.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from hft_core import specs
from hft_core.errors import HftError, PluginError, RecipeError, did_you_mean
from hft_core.plugins import provenance
from hft_core.plugins.allowlist import OWN
from hft_core.plugins.catalogue import Catalogue, Entry, State, accepted
from hft_core.plugins.entries import one_line
from hft_core.recipe.fields import PluginChoice
from hft_core.recipe.messages import KeyPath, in_one_line, model_at, problems
from hft_core.recipe.schema import BackboneChoice, Recipe, Task
from hft_core.recipe.stage import DEFAULT_EPOCHS, Stage
from hft_core.recipe.yaml_source import Source

Where = Callable[[KeyPath], str]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Chosen:
    """A plugin that a recipe means, and its checked options."""

    entry: Entry
    options: BaseModel
    catalogue: Catalogue = field(repr=False, compare=False)

    def build(self, *, optional: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
        """The plugin itself; `arguments` are its seam's own (see `hft_core.hooks`), and those of `optional` reach only
        a factory that names them.

        Raises `PluginError` when its module cannot be imported or its factory fails, and the factory's own `HftError`.
        """
        factory = self.catalogue.load_factory(self.entry)
        try:
            return factory(self.options, **arguments, **accepted(factory, optional or {}))
        except HftError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(f"{self.title} could not be made: {one_line(error)}") from error

    def build_a(self, kind: type[Made], *, optional: Mapping[str, Any] | None = None, **arguments: Any) -> Made:
        """As `build`. Raises `PluginError` for what is no `kind`, the class of the seam's contract."""
        made = self.build(optional=optional, **arguments)
        if not isinstance(made, kind):
            raise PluginError(f"{self.title}: its factory returned a {type(made).__name__}, expected a {kind.__name__}")
        return made

    @property
    def title(self) -> str:
        """The plugin in messages: `strategy 'lora' of hft-core 0.1.0`."""
        return f"{self.entry.seam} '{self.entry.name}' of {self.entry.provider.label}"


@dataclass(frozen=True)
class ResolvedStage:
    """A stage with its plugins; None where the recipe leaves one out."""

    stage: Stage
    strategy: Chosen | None
    combiner: Chosen | None

    @property
    def merges(self) -> bool:
        """Whether what the strategy adds can be folded into the trunk."""
        if self.strategy is None:
            return True
        spec = self.strategy.entry.spec
        return bool(getattr(self.strategy.options, "merges", isinstance(spec, specs.StrategySpec) and spec.merges))


@dataclass(frozen=True)
class Resolved:
    """A recipe with all of its plugins; `recipe` says everything in full, so that saving it pins the defaults."""

    recipe: Recipe
    backbone: Chosen
    heads: dict[str, Chosen]
    stages: tuple[ResolvedStage, ...]
    where: Where = field(repr=False, compare=False)
    """Names the place of a key, for what is found wrong only when the recipe meets its data and its model."""

    def providers(self) -> list[dict[str, str]]:
        """Where each plugin in use comes from: seam, name, distribution and version, and the hash of a single file."""
        used = {(c.entry.seam, c.entry.name, c.entry.provider.distribution): c.entry for c in self._chosen()}
        return [provenance.origin(used[key]) for key in sorted(used)]

    def folds_after(self, index: int) -> bool:
        """Whether what the strategy of stage `index` added is folded into the trunk when the stage is over."""
        return index + 1 < len(self.stages) and not _carries_on(self.stages[index], self.stages[index + 1])

    def last_strategies(self) -> tuple[ResolvedStage, ...]:
        """The stages whose strategies make the parts that the finished model has beside the trunk, in their order."""
        last = len(self.stages) - 1
        return (*self.strategies_before(last), self.stages[last])

    def strategies_before(self, index: int) -> tuple[ResolvedStage, ...]:
        """The stages whose strategies' parts are still in the trunk when stage `index` begins, in their order."""
        first = index
        while first > 0 and not self.folds_after(first - 1):
            first -= 1
        return self.stages[first:index]

    def _chosen(self) -> Iterator[Chosen]:
        yield self.backbone
        yield from self.heads.values()
        for stage in self.stages:
            yield from (chosen for chosen in (stage.strategy, stage.combiner) if chosen is not None)


def resolve(recipe: Recipe, catalogue: Catalogue, where: Where | None = None) -> Resolved:
    """The plugins that `recipe` means, with their options; `where` names the place of a key (`Source.where`).

    Raises `PluginError` for a plugin that is unknown, unusable or refuses its options, and `RecipeError` for stages
    that do not fit together.
    """
    resolver = _Resolver(catalogue, where or Source.of(recipe.model_dump(mode="json")).where)
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
    """One plugin with its options, apart from any recipe; what is wrong is said to be at `place`. Raises
    `PluginError`."""
    return _Resolver(catalogue, lambda path: place).chosen(seam, choice, ())


class _Resolver:
    """Looks plugins up, and words what is wrong by the place of the key that asked for them."""

    def __init__(self, catalogue: Catalogue, where: Where) -> None:
        self.catalogue = catalogue
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
        """The options as the plugin's model reads them; unknown ones are errors unless the model takes any."""
        extra: Literal["forbid"] | None = None if model.model_config.get("extra") == "allow" else "forbid"
        try:
            return model.model_validate(choice.options, extra=extra)
        except ValidationError as error:
            raise PluginError(self.refused(entry, model, error, path)) from None
        except Exception as error:
            title = f"{entry.seam} '{entry.name}' of {entry.provider.label}"
            raise PluginError(f"{self.where(path)}: {title} failed to read its options: {one_line(error)}") from error

    def refused(self, entry: Entry, model: type[BaseModel], error: ValidationError, path: KeyPath) -> str:
        title = f"{entry.seam} '{entry.name}'"
        lines = []
        for problem in problems(error, model):
            key = (*path, "options", *problem.path)
            if problem.kind == "unknown":
                owner = model_at(model, problem.path[:-1])
                known = set(owner.model_fields) if owner else set()
                known |= set(Task.model_fields) if entry.seam == "head" and len(problem.path) == 1 else set()
                name = str(problem.path[-1])
                lines.append((self.where(key), f"{title} has no option '{name}'.{did_you_mean(name, known)}"))
            elif problem.kind == "missing":
                lines.append((self.where(key[:-1]), f"{title} needs the option '{problem.path[-1]}'"))
            else:
                lines.append((self.where(key), f"{title}: {problem.text}"))
        return in_one_line(lines)

    def backbone(self, choice: BackboneChoice) -> Chosen:
        if choice.type:
            return self.chosen("backbone", choice, ("backbone",))
        model = choice.options.get("model")
        if not isinstance(model, str) or not model:
            raise RecipeError(f"{self.where(('backbone',))}: 'model' is missing (a local folder or file, or a hub id)")
        return self.chosen("backbone", choice.model_copy(update={"type": self.opener(model)}), ("backbone",))

    def opener(self, model: str) -> str:
        """The name of the one usable backbone that says it opens `model`.

        Those of hft-core are asked first, so that a recipe without a type means the same whatever else is installed.
        """
        entries = self.catalogue.seam("backbone")
        failed: dict[str, list[str]] = {}
        own = [entry for entry in entries if entry.provider.distribution == OWN]
        others = [entry for entry in entries if entry.provider.distribution != OWN]
        able = self.able(own, model, failed) or self.able(others, model, failed)
        place = self.where(("backbone", "options", "model"))
        model = " ".join(model.split())
        if not able:
            told = "".join(f"; {', '.join(names)} could not be asked: {why}" for why, names in failed.items())
            known = ", ".join(e.name if e.state is State.OK else f"{e.name} ({e.status})" for e in entries) or "none"
            raise PluginError(
                f"{place}: no backbone opens '{model}' (known: {known}){told or what_is_there(model)}"
                f"{self.catalogue.not_loaded()}"
            )
        if len(able) > 1:
            raise PluginError(f"{place}: '{model}' can be opened by {', '.join(able)}; say which one with 'type'")
        return able[0]

    def able(self, backbones: list[Entry], model: str, failed: dict[str, list[str]]) -> list[str]:
        """The names that mean those of the usable `backbones` that open `model`; why others could not be asked goes
        into `failed`, with their names."""
        names = []
        for entry in backbones:
            if entry.state not in (State.OK, State.CONFLICT):
                continue
            taken = entry.state is State.CONFLICT
            name = f"{entry.provider.distribution}:{entry.name}" if taken else entry.name
            try:
                opener = self.catalogue.load_opens(self.catalogue.get("backbone", name))
                if opener is not None and opener(model):
                    names.append(name)
            except (Exception, SystemExit) as error:  # another backbone may open it; told when none does
                why = " ".join(str(error).split()) if isinstance(error, HftError) else one_line(error)
                failed.setdefault(why, []).append(f"{entry.name} of {entry.provider.label}")
        return names

    def check_order(self, stages: tuple[ResolvedStage, ...]) -> None:
        """Raise `RecipeError` when a stage follows one whose strategy cannot be folded into the trunk."""
        for i, (stage, following) in enumerate(pairwise(stages)):
            spec = stage.strategy.entry.spec if stage.strategy else None
            if spec is not None and not stage.merges and not _carries_on(stage, following):
                raise RecipeError(
                    f"{self.where(('stages', i, 'strategy'))}: strategy '{spec.name}' adds parts that cannot be merged "
                    f"into the trunk, so that stage '{following.stage.name}' cannot follow; make it the last stage"
                )

    def check_replay(self, recipe: Recipe, heads: Mapping[str, Chosen]) -> None:
        """Raise `RecipeError` when a task with labels is to be replayed."""
        for name, task in recipe.tasks.items():
            spec = heads[name].entry.spec
            if task.replay and isinstance(spec, specs.HeadSpec) and spec.needs_labels:
                raise RecipeError(
                    f"{self.where(('tasks', name, 'replay'))}: only a self-supervised task can be replayed, and head "
                    f"'{spec.name}' needs labels; give the task its share by 'sampling'"
                )


def what_is_there(model: str) -> str:
    """What a model that nothing opens is, for a message."""
    if os.path.exists(model):  # noqa: PTH110 (pathlib's raises for a long name)
        return "; expected a folder as transformers saves it (config.json, weights, tokenizer), a GGUF file or a hub id"
    folder, name = os.path.split(model)
    beside = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    hub = " (HF_HUB_OFFLINE is set, so that it was not asked)" if offline else ""
    near = did_you_mean(name, beside)
    return f"; it is no file or folder here, and no model of the hub{hub}.{near if near.startswith(' Did') else ''}"


def _carries_on(stage: ResolvedStage, following: ResolvedStage) -> bool:
    """Whether the strategy of the following stage takes over the parts of this one's as they are."""
    spec = following.strategy.entry.spec if following.strategy else None
    if not isinstance(spec, specs.StrategySpec) or stage.strategy is None:
        return False
    return stage.strategy.entry.name in spec.continues


def _pinned(choice: PluginChoice, chosen: Chosen) -> PluginChoice:
    """The choice with its type and every option written out, as YAML can hold them."""
    options = chosen.options.model_dump(mode="json", by_alias=True)
    return choice.model_copy(update={"type": choice.type or chosen.entry.name, "options": options})


def _stage(stage: Stage, strategy: Chosen | None, combiner: Chosen | None) -> ResolvedStage:
    """The stage with its plugins' options and its budget written out."""
    pinned: dict[str, Any] = {
        "strategy": stage.strategy and strategy and _pinned(stage.strategy, strategy),
        "combiner": stage.combiner and combiner and _pinned(stage.combiner, combiner),
    }
    if stage.num_train_epochs is None and stage.max_steps is None:
        pinned["num_train_epochs"] = DEFAULT_EPOCHS
    return ResolvedStage(stage.model_copy(update=pinned), strategy, combiner)
