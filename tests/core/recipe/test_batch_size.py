from __future__ import annotations

from typing import Any

import pytest

from hft_core.errors import RecipeError
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe.batch_size import resolve_batch_size, with_batch_sizes
from hft_core.recipe.recipe_file import dump, from_dict, load, parse
from hft_core.recipe.resolve import Resolved, resolve
from hft_core.recipe.stage import Stage

PER_DEVICE, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"


def sizes(processes: int, **keys: Any) -> tuple[int | None, int | None]:
    """Rows of a step, and of a pass."""
    stage = resolve_batch_size(Stage.model_validate(keys), processes)
    assert (stage.per_device_train_batch_size, stage.gradient_accumulation_steps) == (None, None)
    return stage.train_batch_size, stage.max_rows_per_batch


def recipe(**stage: Any) -> Resolved:
    tasks = {"topic": {"head": "classification", "data": "news.csv"}}
    data = {"backbone": {"type": "hf-encoder", "model": "encoder"}, "tasks": tasks, "stages": [stage]}
    return resolve(from_dict(data), Catalogue.discover())


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_a_step_has_as_many_rows_on_any_number_of_processes(processes: int) -> None:
    assert sizes(processes) == (32, 32)
    assert sizes(processes, train_batch_size=24) == (24, 24)
    assert sizes(processes, train_batch_size=24, max_rows_per_batch=7) == (24, 7)
    assert sizes(processes, sampling={"batch_size": {"a": 30, "b": 20}}) == (50, 32)


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_the_keys_of_transformers_mean_what_they_mean_there(processes: int) -> None:
    """`TrainingArguments`: rows a device a pass; a step has these × processes × accumulation steps."""
    assert sizes(processes, per_device_train_batch_size=4) == (4 * processes, 4)
    assert sizes(processes, gradient_accumulation_steps=3) == (32 * processes * 3, 32)
    both = {PER_DEVICE: 4, ACCUMULATION: 3}
    assert sizes(processes, **both) == (4 * processes * 3, 4)
    assert sizes(processes, **both, train_batch_size=12 * processes) == (12 * processes, 4)
    assert sizes(processes, **both, max_rows_per_batch=2) == (12 * processes, 2)


def test_two_keys_give_the_third() -> None:
    assert sizes(2, train_batch_size=64, per_device_train_batch_size=8) == (64, 8)
    assert sizes(2, train_batch_size=64, gradient_accumulation_steps=4) == (64, 8)


def test_a_pass_of_tasks_with_their_own_batch_sizes_may_be_limited() -> None:
    sampling = {"batch_size": {"a": 6, "b": 2}}
    assert sizes(2, sampling=sampling, per_device_train_batch_size=3, gradient_accumulation_steps=5) == (8, 3)
    assert sizes(2, sampling=sampling, train_batch_size=8) == (8, 32)


@pytest.mark.parametrize(
    ("processes", "keys", "arithmetic"),
    [
        (
            2,
            {PER_DEVICE: 8, ACCUMULATION: 2},
            f"64 rows a step is not {PER_DEVICE} 8 × {ACCUMULATION} 2 × 2 processes = 32",
        ),
        (1, {PER_DEVICE: 24}, f"64 rows a step is not a multiple of {PER_DEVICE} 24 × 1 process = 24"),
        (3, {ACCUMULATION: 4}, f"64 rows a step is not a multiple of {ACCUMULATION} 4 × 3 processes = 12"),
        (1, {"sampling": {"batch_size": {"topic": 8}}}, "64 rows a step contradict sampling.batch_size: 8 = 8"),
    ],
)
def test_a_contradiction_is_refused_with_its_arithmetic(processes: int, keys: dict[str, Any], arithmetic: str) -> None:
    with pytest.raises(RecipeError) as refused:
        with_batch_sizes(recipe(train_batch_size=64, **keys), processes)
    assert str(refused.value).startswith(f"recipe, stages.0.train_batch_size: {arithmetic}; ")


def test_the_saved_recipe_says_the_same_on_another_number_of_processes() -> None:
    begun = with_batch_sizes(recipe(**{PER_DEVICE: 4, ACCUMULATION: 3}), 2)
    saved = load(parse(dump(begun.recipe), "saved"))
    again = with_batch_sizes(resolve(saved, Catalogue.discover()), 5)
    assert again.recipe.stages == begun.recipe.stages
    assert again.recipe.stages[0].train_batch_size == 24
