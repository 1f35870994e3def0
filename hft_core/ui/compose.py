"""Compose recipes from forms, and check them as `hft validate` does before it reads data."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from hft_core.errors import HftError, PluginError
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.ui.workspace import Workspace

SEAMS = ("backbone", "head", "strategy", "combiner")


class Choice(BaseModel):
    """A plugin and the options that were filled in, as texts."""

    model_config = ConfigDict(extra="forbid")
    type: str = ""
    options: dict[str, str] = Field(default_factory=dict, max_length=100)


class TaskForm(BaseModel):
    """A task."""

    model_config = ConfigDict(extra="forbid")
    name: str
    head: Choice
    data: str = ""


class StageForm(BaseModel):
    """A stage."""

    model_config = ConfigDict(extra="forbid")
    name: str = ""
    tasks: list[str] = []
    strategy: Choice = Choice()
    combiner: Choice = Choice()
    settings: dict[str, str] = Field(default_factory=dict, max_length=50)


class RecipeForm(BaseModel):
    """A whole recipe."""

    model_config = ConfigDict(extra="forbid")
    name: str = ""
    backbone: Choice
    tasks: list[TaskForm] = Field(max_length=100)
    stages: list[StageForm] = Field(max_length=100)


def plugins(catalogue: Catalogue) -> dict[str, list[dict[str, Any]]]:
    """Return the usable plugins by seam, each with the JSON schemas of its options."""
    found: dict[str, list[dict[str, Any]]] = {}
    for seam in SEAMS:
        found[seam] = []
        for entry in catalogue.seam(seam):
            if entry.spec is None or entry.reason:
                continue
            try:
                schema = catalogue.load_options(entry).model_json_schema()
            except (PluginError, ValueError, TypeError):  # a plugin without a schema can still be written as YAML
                continue
            options = [_option(name, value, schema) for name, value in schema.get("properties", {}).items()]
            found[seam].append({"name": entry.name, "summary": entry.spec.summary, "options": options})
    return found


def _option(name: str, value: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a form needs to know of an option."""
    shapes = [_followed(shape, schema) for shape in value.get("anyOf", [value])]
    kinds = [shape.get("type") for shape in shapes if shape.get("type") != "null"]
    choices: list[Any] = next((shape["enum"] for shape in shapes if "enum" in shape), [])
    default = value.get("default")
    return {
        "name": name,
        "required": name in schema.get("required", []),
        "kind": kinds[0] if len(set(kinds)) == 1 else "any",
        "choices": choices,
        "default": "" if default is None else default if isinstance(default, str) else json.dumps(default),
        "meaning": value.get("description", ""),
    }


def _followed(shape: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    name = str(shape.get("$ref", "")).rpartition("/")[2]
    return schema.get("$defs", {}).get(name, shape) if name else shape


def compose(form: RecipeForm) -> dict[str, Any]:
    """Return the recipe of a form as plain data; what was left empty is left out."""
    recipe: dict[str, Any] = {"backbone": _choice(form.backbone)}
    recipe["tasks"] = {
        task.name: {"head": task.head.type, **_values(task.head.options), **({"data": task.data} if task.data else {})}
        for task in form.tasks
    }
    recipe["stages"] = []
    for stage in form.stages:
        made: dict[str, Any] = {"name": stage.name} if stage.name else {}
        if stage.tasks and stage.tasks != [task.name for task in form.tasks]:
            made["tasks"] = stage.tasks
        for seam, choice in (("strategy", stage.strategy), ("combiner", stage.combiner)):
            if choice.type:
                given = _choice(choice)
                made[seam] = given if len(given) > 1 else choice.type
        recipe["stages"].append({**made, **_values(stage.settings)})
    return recipe


def _choice(choice: Choice) -> dict[str, Any]:
    return {**({"type": choice.type} if choice.type else {}), **_values(choice.options)}


def _values(options: Mapping[str, str]) -> dict[str, Any]:
    """Read each text as YAML would, in a recipe."""
    return {name: _value(text) for name, text in options.items() if text.strip()}


def _value(text: str) -> Any:
    try:
        return recipe_file.parse(f"value: {text}", name="form").data["value"]
    except HftError:
        return text


def as_yaml(recipe: Mapping[str, Any]) -> str:
    """Write plain data as a person would write a recipe."""
    return str(yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, width=100))


def command_of(name: str) -> str:
    """Return the command that does the same as the page's button, in the folder of the workspace."""
    return shlex.join(["hft", "run", f"{name}.yaml", "--out", name]) if name else "hft run RECIPE.yaml --out RUN"


def check(text: str, workspace: Workspace, catalogue: Catalogue) -> Sequence[str]:
    """Check a recipe's keys, plugins, options and paths; return its tasks. Raises `HftError`, in one line."""
    source = recipe_file.parse(text, name="recipe", folder=workspace.root)
    workspace.check_paths(source.data)
    recipe = recipe_file.validate(source)
    resolve(recipe, catalogue, source.where)
    return list(recipe.tasks)
