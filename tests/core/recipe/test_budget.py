"""How long a stage trains, and in steps of how many rows, where its recipe does not say."""

from __future__ import annotations

from typing import Any

import pytest

from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe.budget import budgeted, with_budgets, with_budgets_of
from hft_core.recipe.recipe_file import dump, from_dict, load, parse
from hft_core.recipe.resolve import Resolved, resolve
from hft_core.recipe.stage import Stage


@pytest.mark.parametrize(
    ("units", "stated", "epochs", "rows"),
    [
        (8, {}, 20, 8),  # not more passes over so few rows
        (40, {}, 20, 8),
        (160, {}, 5, 8),
        (300, {}, 3, 8),  # 113 steps
        (600, {}, 3, 16),
        (1_000, {}, 3, 16),
        (1_100, {}, 3, 32),
        (100_000, {}, 3, 32),
        (160, {"epochs": 2}, 2, 8),
        (160, {"epochs": 30}, 30, 32),
        (160, {"train_batch_size": 16}, 10, 16),
        (160, {"train_batch_size": 64}, 20, 64),
        (160, {"train_batch_size": 64, "epochs": 1}, 1, 64),
        (160, {"max_steps": 5}, None, 32),
        (160, {"max_steps": 5, "train_batch_size": 4}, None, 4),
    ],
)
def test_few_rows_are_seen_more_often_in_smaller_steps(
    units: int, stated: dict[str, Any], epochs: float | None, rows: int
) -> None:
    stage = budgeted(Stage.model_validate(stated), units)
    assert (stage.num_train_epochs, stage.train_batch_size, stage.max_rows_per_batch) == (epochs, rows, rows)


def test_a_limit_on_memory_stays() -> None:
    stage = budgeted(Stage(max_rows_per_batch=4), 160)
    assert (stage.train_batch_size, stage.max_rows_per_batch) == (8, 4)


def recipe(**stage: Any) -> Resolved:
    tasks = {"topic": {"head": "classification", "data": "news.csv"}}
    data = {"backbone": {"type": "hf-encoder", "model": "encoder"}, "tasks": tasks, "stages": [stage]}
    return resolve(from_dict(data), Catalogue.discover())


def test_a_run_that_goes_on_trains_as_long_as_it_began_to() -> None:
    begun = with_budgets(recipe(learning_rate=1e-4), [40])
    recorded = load(parse(dump(begun.recipe), "saved"))
    assert with_budgets_of(recipe(learning_rate=1e-4), recorded).recipe == begun.recipe
    assert with_budgets_of(recipe(epochs=2), recorded).recipe.stages[0].num_train_epochs == 2
