"""List the head `dependency`; light: listing plugins imports this module."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import HeadSpec


@hookimpl
def hft_heads() -> list[HeadSpec]:
    return [
        HeadSpec(
            name="dependency",
            summary="A head and a relation for each word: syntactic dependency parsing by deep biaffine attention",
            factory="hft_dependency.head:build",
            options="hft_dependency.head:Options",
            example_rows="hft_dependency.example_rows:dependency",
            source="Dozat and Manning 2017, arXiv:1611.01734",
        )
    ]
