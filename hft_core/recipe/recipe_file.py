"""Read and write recipes as YAML files and plain data, without their plugins (see `hft_core.recipe.resolve`).

`load` is `read` → `override` → `validate`. A caller that needs the places of keys later (`resolve` takes
`Source.where`) calls the three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from hft_core.errors import RecipeError
from hft_core.recipe.error_messages import recipe_message
from hft_core.recipe.overrides import override
from hft_core.recipe.schema import DATA_FILES, Data, Recipe
from hft_core.recipe.yaml_source import SCALARS, Source, absolute, existing, parse, read
from hft_core.sanitize import CONTROL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["Source", "dump", "from_dict", "load", "override", "parse", "plain_yaml", "read", "validate"]


def load(path_or_source: str | Path | Source, overrides: Iterable[str] = ()) -> Recipe:
    """Load a recipe from a file or source, with `key.path=value` overrides. Raises `RecipeError`, in one line."""
    source = path_or_source if isinstance(path_or_source, Source) else read(path_or_source)
    return validate(override(source, overrides))


def from_dict(data: Mapping[str, Any], name: str = "recipe") -> Recipe:
    """Validate plain data as a recipe; `name` is its name in messages. Raises `RecipeError`, in one line."""
    return validate(Source.of(dict(data), name))


def validate(source: Source) -> Recipe:
    """Validate a source as a recipe and make its paths absolute. Raises `RecipeError`, in one line."""
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as error:
        raise RecipeError(recipe_message(error, Recipe, source.where)) from None
    return _with_absolute_paths(recipe, source.folder)


def dump(recipe: Recipe) -> str:
    """Write a recipe as YAML with every key, so that later defaults change nothing. `parse` reads it back."""
    return plain_yaml(recipe.model_dump(mode="json"))


def plain_yaml(data: Mapping[str, Any]) -> str:
    """Write plain data as YAML that `parse` reads back."""
    text = yaml.dump(
        dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100
    )
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04X}", str(text))  # all of them are in double quotes


def _with_absolute_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Resolve data paths from `folder`, and the backbone's model if it exists there (otherwise it is a hub id).

    Those in plugins' options are resolved with the plugins, from the recipe's `folder`.
    """
    tasks = {
        name: task.model_copy(update={"data": _absolute_data(task.data, folder)}) if task.data else task
        for name, task in recipe.tasks.items()
    }
    backbone = recipe.backbone
    model = backbone.options.get("model")
    if isinstance(model, str):
        backbone = backbone.model_copy(update={"options": {**backbone.options, "model": existing(model, folder)}})
    placed = recipe.model_copy(update={"tasks": tasks, "backbone": backbone})
    placed._folder = folder
    return placed


def _absolute_data(data: Data, folder: Path) -> Data:
    paths: dict[str, Any] = {k: tuple(absolute(p, folder) for p in getattr(data, k)) for k in DATA_FILES}
    database = None if data.database is None else absolute(data.database, folder)
    return data.model_copy(update={**paths, "database": database})


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes text that YAML 1.1 or 1.2 would not read as text; writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.Node:
        """Represent text, quoted if PyYAML would otherwise fold a rare line break away, or a terminal obeys it."""
        style = '"' if CONTROL.search(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.text)

for _kind, _form in SCALARS.items():
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _form, None)
