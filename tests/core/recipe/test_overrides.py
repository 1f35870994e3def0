from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hft_core.errors import RecipeError
from hft_core.recipe.fields import PluginChoice
from hft_core.recipe.recipe_file import dump, load, override, parse

GOOD = Path(__file__).with_name("good.yaml").read_text()


def message(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(parse(text, "recipe.yaml"), overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "found"),
    [
        ("stages.1.learning_rate=3e-4", lambda r: r.stages[1].learning_rate == 3e-4),
        ("stages.finetune.learning_rate=3e-4", lambda r: r.stages[1].learning_rate == 3e-4),
        ("stages.finetune.weight_decay=0", lambda r: r.stages[1].weight_decay == 0),
        ("stages.pretrain.num_train_epochs=5", lambda r: r.stages[0].num_train_epochs == 5),
        ("stages.pretrain.epochs=5", lambda r: r.stages[0].num_train_epochs == 5),
        ("stages.1.strategy=full", lambda r: r.stages[1].strategy == PluginChoice(type="full")),
        ("stages.1.strategy={type: full, x: [1]}", lambda r: r.stages[1].strategy.options == {"x": [1]}),
        ("stages.1.strategy.r=8", lambda r: r.stages[1].strategy.options == {"r": 8}),
        ("stages.1.strategy.options.r=8", lambda r: r.stages[1].strategy.options == {"r": 8}),
        ("stages.1.strategy=", lambda r: r.stages[1].strategy is None),
        ("stages.1.sampling.temperature=2", lambda r: r.stages[1].sampling.temperature == 2),
        ("stages.0.sampling.weights.language=2", lambda r: r.stages[0].sampling.weights == {"language": 2}),
        ("tasks.topic.head.loss=bce", lambda r: r.tasks["topic"].head.options["loss"] == "bce"),
        ("tasks.topic.loss=bce", lambda r: r.tasks["topic"].head.options["loss"] == "bce"),
        ("tasks.topic.label=no", lambda r: r.tasks["topic"].head.options["label"] == "no"),
        ("tasks.language.whole_word=true", lambda r: r.tasks["language"].head.options == {"whole_word": True}),
        ("tasks.topic.data.split.dev=0.3", lambda r: r.tasks["topic"].data.split.dev == 0.3),
        ("tasks.topic.data.files.0=/x.csv", lambda r: r.tasks["topic"].data.files == ("/x.csv",)),
        ("backbone.model=other", lambda r: r.backbone.options == {"model": "other"} and r.backbone.type == "tiny"),
        ("backbone=other", lambda r: r.backbone.options == {"model": "other"} and r.backbone.type == ""),
        ("output.logging_steps=3", lambda r: r.output.logging_steps == 3),
        (" seed = 7", lambda r: r.seed == 7),
    ],
)
def test_an_override_changes_its_key_only(assignment: str, found: Any) -> None:
    source = parse(GOOD, "recipe.yaml")
    recipe = load(source, [assignment])
    assert not found(load(source))
    assert found(recipe)
    assert load(source) == load(parse(GOOD, "recipe.yaml")), "the source itself must not change"


def test_overrides_apply_in_order_and_to_saved_recipes() -> None:
    saved = parse(dump(load(parse(GOOD, "x"))), "saved")
    recipe = load(saved, ["stages.1.strategy=full", "stages.1.strategy.r=1", "stages.0.epochs=9", "stages.0.epochs=8"])
    assert recipe.stages[1].strategy == PluginChoice(type="full", options={"r": 1})
    assert recipe.stages[0].num_train_epochs == 8


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("stages.1.learnin_rate=1", ["'stages.1' has no key 'learnin_rate'", "'learning_rate'?"]),
        ("stages.finetun.learning_rate=1", ["no stage is called 'finetun'", "'finetune'?"]),
        ("stages.2.learning_rate=1", ["'stages' has no entry '2' (of 2, counted from 0)"]),
        ("tasks.topik.max_length=8", ["no task is called 'topik'", "'topic'?"]),
        ("task.topic.max_length=8", ["a recipe has no key 'task'", "'tasks'?"]),
        ("seed.x=1", ["'seed' has no keys"]),
        ("stages.1.learning_rate.x=1", ["'stages.1.learning_rate' has no keys"]),
        ("tasks.language.data.train.4=x", ["has no entry '4' (of 1, counted from 0)"]),
        ("seed", ["KEY.PATH=VALUE"]),
        ("=3", ["KEY.PATH=VALUE"]),
        ("stages..x=3", ["KEY.PATH=VALUE"]),
        ("seed=[1", ["not valid YAML"]),
        ("seed=*x", ["aliases"]),
        ("seed='a\n\nb'", ["expected a whole number, not 'a\\nb'"]),
        ("seed=soon", ["expected a whole number, not 'soon'"]),
        ("stages.0.sampling.temperature=0", ["expected a number >= 1, not 0"]),
    ],
)
def test_a_bad_override_is_named(assignment: str, parts: list[str]) -> None:
    line = message(GOOD, assignment)
    assert line.startswith(f"--set {' '.join(assignment.split())}: ")
    for part in parts:
        assert part in line


def test_paths_in_overrides_start_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    source = parse(GOOD, "x", tmp_path / "there")
    recipe = load(source, ["tasks.topic.data=x.csv", "tasks.language.data.dev=[y.txt]", "backbone.model=model"])
    topic, language = recipe.tasks["topic"].data, recipe.tasks["language"].data
    assert topic is not None and topic.files == (str(tmp_path / "here/x.csv"),)
    assert language is not None and language.dev == (str(tmp_path / "here/y.txt"),)
    assert language.train == (str(tmp_path / "there/a/*.txt"),)
    assert recipe.backbone.options["model"] == str(tmp_path / "here/model")


def test_where_names_the_override_that_set_a_key() -> None:
    source = override(
        parse(GOOD, "recipe.yaml"), ["stages.finetune.strategy.alpha=2", "stages.1.sampling.weights.topic=2"]
    )
    assert source.where(("stages", 1, "strategy", "options", "alpha")) == "--set stages.finetune.strategy.alpha=2"
    assert source.where(("stages", 1, "strategy", "options", "r")) == "recipe.yaml, line 13, stages.1.strategy.r"
    assert source.where(("stages", 1, "sampling", "weights", "topic")) == "--set stages.1.sampling.weights.topic=2"
    assert source.where(("stages", 1, "sampling")) == "recipe.yaml, line 14, stages.1.sampling"


def test_an_override_below_something_of_the_wrong_kind_is_refused() -> None:
    text = GOOD.replace("head: {type: mlm}", "head: []")
    assert "'tasks.language.head' has no keys" in message(text, "tasks.language.p=1")
    text = GOOD.replace("{type: lora, r: 16}", "{type: lora, options: 3}")
    assert "'stages.1.strategy.options' has no keys" in message(text, "stages.1.strategy.r=1")
