"""What hft is told of this package when plugins are listed: light, so that listing them stays fast."""

from __future__ import annotations

from hft_core import RecipeSpec, hookimpl


@hookimpl
def hft_recipes() -> list[RecipeSpec]:
    """The ready-made recipes of this package."""
    return [
        RecipeSpec(
            name="my-plugin",
            summary="Topics of short sentences, from rows that come with the package",
            factory="hft_my_plugin.recipe:build",
            options="hft_my_plugin.recipe:Options",
            source="where the rows are from",
        )
    ]
