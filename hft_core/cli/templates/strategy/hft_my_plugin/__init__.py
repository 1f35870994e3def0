"""What hft is told of this package when plugins are listed: light, so that listing them stays fast."""

from __future__ import annotations

from hft_core import StrategySpec, hookimpl


@hookimpl
def hft_strategies() -> list[StrategySpec]:
    """The strategies of this package."""
    return [
        StrategySpec(
            name="my-plugin",
            summary="Trains the biases and the norms of the trunk",
            factory="hft_my_plugin.strategy:build",
            options="hft_my_plugin.strategy:Options",
            example={"norms": True},
            source="the paper or library that defines the method",
        )
    ]
