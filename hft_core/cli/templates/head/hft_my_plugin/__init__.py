"""What hft is told of this package when plugins are listed: light, so that listing them stays fast."""

from __future__ import annotations

from hft_core import HeadSpec, hookimpl


@hookimpl
def hft_heads() -> list[HeadSpec]:
    """The task heads of this package."""
    return [
        HeadSpec(
            name="my-plugin",
            summary="A number for a text, learned on the scale of the training rows",
            factory="hft_my_plugin.head:build",
            options="hft_my_plugin.head:Options",
            example={"text": "text", "number": "number"},
            source="the paper or library that defines the method",
        )
    ]
