from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import pytest

import hft_core
from hft_core.runs.floors import standard_error


def trained(models: Any, toys: ModuleType, head: dict[str, Any], shuffled: bool) -> Any:
    parts = {split: toys.rows(n, seed=s) for split, n, s in (("train", 120, 0), ("dev", 10, 1), ("test", 300, 2))}
    if shuffled:
        column = head.get("label", "label")
        for rows in parts.values():
            targets = [row[column] for row in rows]
            random.Random(0).shuffle(targets)
            for row, target in zip(rows, targets, strict=True):
                row[column] = target
    recipe = {
        "backbone": {"model": str(models["bert"]), "dropout": 0.0},
        "tasks": {"t": head},
        "stages": [{"max_steps": 110, "learning_rate": 3e-3, "train_batch_size": 16, "eval_strategy": "no"}],
        "precision": "fp32",
    }
    return hft_core.run(recipe, data={"t": parts})


HEADS = {
    "classes": {"head": "classification"},
    "labels": {"head": "multilabel"},
    "numbers": {"head": "regression", "label": "score"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
def test_targets_that_do_not_belong_to_their_texts_are_no_better_than_guessing(
    kind: str, models: Any, toys: ModuleType
) -> None:
    head = HEADS[kind]
    (warning,) = [w for w in trained(models, toys, head, shuffled=True).warnings if "ignores the text" in w]
    assert warning.startswith("task 't': test ")
    assert not [w for w in trained(models, toys, head, shuffled=False).warnings if "ignores the text" in w]


def test_a_floor_is_the_share_of_the_most_frequent_training_class(models: Any, toys: ModuleType) -> None:
    rows = [{**row, "label": "common" if i % 4 else "rare"} for i, row in enumerate(toys.rows(80))]
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {"t": {"head": "classification"}},
        "stages": [{"max_steps": 1}],
        "precision": "fp32",
    }
    result = hft_core.run(recipe, data={"t": {"train": rows, "dev": rows[:40], "test": rows[:20]}})
    floors = {split: floor["t"] for split, floor in result.floors.items()}
    assert {split: (floor.value, floor.rows) for split, floor in floors.items()} == {
        "dev": (0.75, 40),
        "test": (0.75, 20),
    }
    assert result.to_json()["floors"]["dev"]["t"] == {"value": 0.75, "rows": 40}


def test_the_standard_error_is_that_of_a_share() -> None:
    assert standard_error(0.5, 100) == 0.05
    assert standard_error(2.5, 100) is None
