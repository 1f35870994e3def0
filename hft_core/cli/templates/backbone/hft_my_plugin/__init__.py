"""What hft is told of this package when plugins are listed: light, so that listing them stays fast."""

from __future__ import annotations

from hft_core import BackboneSpec, hookimpl


@hookimpl
def hft_backbones() -> list[BackboneSpec]:
    """The backbones of this package."""
    return [
        BackboneSpec(
            name="my-plugin",
            summary="A small bidirectional encoder from scratch, with any tokenizer of transformers",
            factory="hft_my_plugin.backbone:build",
            options="hft_my_plugin.backbone:Options",
            # PATH stands for the folder of a tiny model that the conformance suite writes.
            example={"model": "PATH", "hidden_size": 16, "layers": 2, "heads": 2},
            source="the paper or library that defines the trunk",
        )
    ]
