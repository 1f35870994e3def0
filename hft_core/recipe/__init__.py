"""Read, check and write recipes, and resolve the plugins that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hft_core.specs import lazy_attributes

if TYPE_CHECKING:
    from hft_core.recipe.fields import PluginChoice
    from hft_core.recipe.recipe_file import dump, from_dict, load
    from hft_core.recipe.schema import BackboneChoice, Data, Output, Queries, Recipe, Split, Task
    from hft_core.recipe.stage import Sampling, Stage
    from hft_core.recipe.yaml_source import existing

__all__ = [
    "BackboneChoice",
    "Data",
    "Output",
    "PluginChoice",
    "Queries",
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
    "BackboneChoice": "hft_core.recipe.schema:BackboneChoice",
    "Data": "hft_core.recipe.schema:Data",
    "Output": "hft_core.recipe.schema:Output",
    "PluginChoice": "hft_core.recipe.fields:PluginChoice",
    "Queries": "hft_core.recipe.schema:Queries",
    "Recipe": "hft_core.recipe.schema:Recipe",
    "Sampling": "hft_core.recipe.stage:Sampling",
    "Split": "hft_core.recipe.schema:Split",
    "Stage": "hft_core.recipe.stage:Stage",
    "Task": "hft_core.recipe.schema:Task",
    "dump": "hft_core.recipe.recipe_file:dump",
    "existing": "hft_core.recipe.yaml_source:existing",
    "from_dict": "hft_core.recipe.recipe_file:from_dict",
    "load": "hft_core.recipe.recipe_file:load",
}

__getattr__, __dir__ = lazy_attributes(__name__, _LAZY)
