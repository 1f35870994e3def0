from __future__ import annotations

import json
import math
from typing import Any

import pytest
from pydantic import ValidationError

from hft_core.recipe.fields import PluginChoice
from hft_core.recipe.schema import Data, Recipe, Task
from hft_core.recipe.stage import Sampling, Stage


def recipe(**changes: Any) -> Recipe:
    data = {
        "backbone": "tiny",
        "tasks": {"topic": {"head": "classification", "data": "news.csv", "label": "topic"}},
        "stages": [{"epochs": 1}],
    }
    return Recipe.model_validate({**data, **changes})


def test_short_forms_mean_their_long_forms() -> None:
    assert PluginChoice.model_validate("lora") == PluginChoice(type="lora")
    assert PluginChoice.model_validate({"type": "lora", "r": 16}) == PluginChoice(type="lora", options={"r": 16})
    assert Data.model_validate("a.csv") == Data(files=("a.csv",))
    assert Data.model_validate({"train": "a.csv", "dev": ["b.csv"]}) == Data(train=("a.csv",), dev=("b.csv",))
    assert Sampling.model_validate("uniform").temperature == math.inf
    assert Stage.model_validate({"epochs": 2, "tasks": "topic"}) == Stage(num_train_epochs=2, tasks=("topic",))
    assert recipe(stages={"epochs": 1}) == recipe()
    assert recipe().backbone.options == {"model": "tiny"}


def test_head_options_may_stand_in_the_task_or_in_the_head() -> None:
    inline = Task.model_validate({"head": "classification", "loss": "bce", "max_length": 64})
    assert inline == Task.model_validate({"head": {"type": "classification", "loss": "bce"}, "max_length": 64})
    assert inline == Task.model_validate(
        {"head": {"type": "classification", "options": {"loss": "bce"}}, "max_length": 64}
    )
    mixed = Task.model_validate({"head": {"type": "classification", "options": {"loss": "bce"}}, "text": "a"})
    assert mixed.head.options == {"loss": "bce", "text": "a"}


def test_stages_get_names_and_all_tasks_when_they_give_none() -> None:
    stages = recipe(stages=[{}, {"name": "last"}]).stages
    assert [(stage.name, stage.tasks) for stage in stages] == [("stage-1", ("topic",)), ("last", ("topic",))]


@pytest.mark.parametrize("sampling", ["uniform", {"temperature": 2.5, "weights": {"topic": 3}}])
def test_a_recipe_survives_plain_data_and_json(sampling: Any) -> None:
    one = recipe(
        stages=[{"sampling": sampling, "strategy": {"type": "lora", "alpha": math.inf, "targets": ("q", "v")}}]
    )
    assert Recipe.model_validate(one.model_dump(mode="json")) == one
    assert Recipe.model_validate(one.model_dump()) == one
    assert Recipe.model_validate_json(one.model_dump_json()) == one
    assert Recipe.model_validate(json.loads(json.dumps(one.model_dump(mode="json")))) == one


def test_options_called_type_or_options_survive_too() -> None:
    for options in ({"type": "x"}, {"options": {"a": 1}}, {"type": "x", "options": 1, "r": 2}):
        choice = PluginChoice(type="odd", options=options)
        assert PluginChoice.model_validate(choice.model_dump()) == choice


def test_equal_recipes_have_equal_hashes() -> None:
    assert hash(recipe()) == hash(recipe())
    assert len({recipe(), recipe(), recipe(seed=1)}) == 2
    left, right = (
        PluginChoice(type="a", options={"r": 1, "s": [1]}),
        PluginChoice(type="a", options={"s": [1], "r": 1.0}),
    )
    assert left == right
    assert hash(left) == hash(right)


def test_nothing_changes_after_it_was_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        recipe().seed = 3


@pytest.mark.parametrize(
    "stage",
    [{"learning_rate": "3e-4"}, {"max_steps": 2.5}, {"max_steps": True}, {"load_best_model_at_end": "no"}],
)
def test_values_keep_their_kind(stage: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        recipe(stages=[stage])


@pytest.mark.parametrize("key", ["learning_rate", "num_train_epochs", "weight_decay", "max_grad_norm"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_only_a_temperature_may_be_infinite(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        recipe(stages=[{key: value}])


def test_an_option_that_yaml_cannot_hold_is_refused() -> None:
    with pytest.raises(ValidationError, match="not object"):
        PluginChoice(type="lora", options={"nested": {"value": object()}})


def test_every_field_says_what_it_means() -> None:
    from hft_core.recipe.schema import BackboneChoice, Output, Split

    for model in (Recipe, BackboneChoice, PluginChoice, Task, Data, Split, Stage, Sampling, Output):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


LANGUAGE = {"head": "mlm", "data": {"train": "a.txt", "stream": True}}
TOPIC = {"head": "classification", "data": "news.csv"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"files": "a.txt"}, "'stream' reads files in 'train'"),
        ({"train": "a.txt", "split": {"dev": 0.2}}, "'split' and 'stream' cannot be combined"),
        ({"train": "a.txt", "max_rows": 5}, "'max_rows' and 'stream' cannot be combined"),
        ({"train": "a.txt", "stream": False, "shuffle_buffer": 5}, "'shuffle_buffer' goes with 'stream'"),
    ],
)
def test_a_stream_is_not_split_or_sampled(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Data.model_validate({"stream": True, **data})


@pytest.mark.parametrize(
    ("tasks", "stage", "message"),
    [
        ({"lm": LANGUAGE}, {}, "the rows of the task 'lm' are a stream, and are not counted: give 'max_steps'"),
        ({"lm": LANGUAGE}, {"epochs": 1}, "give 'max_steps', not epochs"),
        ({"lm": LANGUAGE}, {"max_steps": 5, "sampling": {"max_epochs": {"lm": 1}}}, "nor are passes over them"),
        (
            {"lm": LANGUAGE},
            {"max_steps": 5, "early_stopping_patience": 2},
            "no epochs to evaluate after: give 'eval",
        ),
        ({"lm": LANGUAGE, "topic": TOPIC}, {"max_steps": 5}, "shares in proportion to rows are not known"),
        ({"lm": LANGUAGE, "topic": TOPIC}, {"max_steps": 5, "sampling": "adaptive"}, "shares in proportion to rows"),
    ],
)
def test_a_stage_with_a_stream_says_how_long_it_is_and_what_each_task_gets(
    tasks: dict[str, Any], stage: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(tasks=tasks, stages=[stage])


def test_a_stream_may_have_a_share_that_is_independent_of_counts() -> None:
    for sampling in ("uniform", "round-robin", {"batch_size": {"lm": 4, "topic": 2}}):
        assert recipe(tasks={"lm": LANGUAGE, "topic": TOPIC}, stages=[{"max_steps": 5, "sampling": sampling}])
    assert recipe(tasks={"lm": {**LANGUAGE, "replay": 0.2}, "topic": TOPIC}, stages=[{"epochs": 2}])
