"""The backbone `sentence-transformers`: light specs only; listing plugins imports this module."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import BackboneSpec


@hookimpl
def hft_backbones() -> list[BackboneSpec]:
    return [
        BackboneSpec(
            name="sentence-transformers",
            summary="A folder of sentence-transformers: its transformer, and its own pooling for heads that pool",
            factory="hft_sentence_transformers.backbone:build",
            options="hft_sentence_transformers.options:Options",
            # No `opens`: hf-encoder opens most of these folders as well, and a recipe that leaves out the type shall go
            # on to mean that one.
            example={"model": "PATH"},
            example_model="hft_sentence_transformers.example:write",
            source="sentence-transformers (Reimers and Gurevych 2019, arXiv:1908.10084)",
        )
    ]
