"""What hft is told of this package when plugins are listed: light, so that listing them stays fast."""

from __future__ import annotations

from hft_core import CombinerSpec, hookimpl


@hookimpl
def hft_combiners() -> list[CombinerSpec]:
    """The combiners of this package."""
    return [
        CombinerSpec(
            name="my-plugin",
            summary="Divides each loss by its running mean, so that all tasks count alike",
            factory="hft_my_plugin.combiner:build",
            options="hft_my_plugin.combiner:Options",
            example={"momentum": 0.9},
            source="the paper or library that defines the method",
        )
    ]
