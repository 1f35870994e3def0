"""Read, check and write recipes, and resolve the plugins that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hft_core import specs

if TYPE_CHECKING:
    from hft_core.recipe.fields import PluginChoice
    from hft_core.recipe.recipe_file import dump, from_dict, load
    from hft_core.recipe.schema import BackboneChoice, Data, Output, Recipe, Split, Task
    from hft_core.recipe.stage import Sampling, Stage
    from hft_core.recipe.yaml_source import existing

__all__ = [
    "BackboneChoice",
    "Data",
    "Output",
    "PluginChoice",
    "Recipe",
    "Sampling",
    "Split",
    "Stage",
    "Task",
    "dump",
    "existing",
    "from_dict",
    "load",
]

_LAZY = {
    "BackboneChoice": "schema:BackboneChoice",
    "Data": "schema:Data",
    "Output": "schema:Output",
    "PluginChoice": "fields:PluginChoice",
    "Recipe": "schema:Recipe",
    "Sampling": "stage:Sampling",
    "Split": "schema:Split",
    "Stage": "stage:Stage",
    "Task": "schema:Task",
    "dump": "recipe_file:dump",
    "existing": "yaml_source:existing",
    "from_dict": "recipe_file:from_dict",
    "load": "recipe_file:load",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return specs.load(f"{__name__}.{_LAZY[name]}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
