from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hft_core import Catalogue, HftError
from hft_core.studies import arms, controls
from hft_core.studies.compare import request

RECIPE = """
backbone: {type: hf-encoder, model: some/model}
tasks:
  language: {head: mlm, data: a.txt}
  topic: {head: classification, data: a.csv}
  match: {head: classification, data: b.csv}
stages:
  - {name: pretrain, tasks: [language]}
  - {name: finetune, tasks: [topic, match], combiner: pcgrad, strategy: {type: lora, r: 4}}
seed: 3
"""


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.discover()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def test_all_combinations_of_values_are_arms() -> None:
    made = arms.vary(["stages.1.strategy=full,{type: lora, r: 8}", "stages.1.combiner=sum,pcgrad"])
    assert list(made) == ["full-sum", "full-pcgrad", "type_lora_r_8-sum", "type_lora_r_8-pcgrad"]
    assert made["type_lora_r_8-sum"] == ["stages.1.strategy={type: lora, r: 8}", "stages.1.combiner=sum"]


def test_a_file_names_arms_and_the_command_line_goes_before_it(recipe: Path, catalogue: Catalogue) -> None:
    file = recipe.with_name("compare.yaml")
    arms_of_file = "arms:\n  base:\n  slow: {stages.finetune.learning_rate: 1e-4}\n"
    file.write_text(f"recipe: recipe.yaml\n{arms_of_file}against: slow\nseeds: [4, 7]")
    asked = request(file)
    assert (asked.against, asked.seeds, asked.controls) == ("slow", (4, 7), None)
    assert request(file, seeds=(0, 1)).seeds == (0, 1)
    base, slow = arms.build(asked, catalogue)
    assert (base.recipe.stages[1].learning_rate, slow.recipe.stages[1].learning_rate) == (None, 1e-4)
    data = slow.recipe.tasks["topic"].data
    assert data is not None
    assert data.split.seed == 3  # the recipe's, whatever the seed of a run
    assert data.files == (str(recipe.with_name("a.csv")),)


def test_controls_are_made_of_the_reference(recipe: Path, catalogue: Catalogue) -> None:
    (arm,) = arms.build(arms.Request(recipe, {"lora": []}), catalogue)
    made = {c.name: c.recipe for c in controls.build(arm, [arm], list(controls.KINDS), catalogue)}
    assert list(made) == [
        *(f"{task}-alone-{strategy}" for task in ("topic", "match") for strategy in ("full", "lora")),
        *("sum", "frozen-trunk", "no-pretraining", "joint"),
    ]
    alone = made["match-alone-full"]
    assert [(s.name, s.tasks, s.combiner) for s in alone.stages] == [
        ("pretrain", ("language",), None),
        ("finetune", ("match",), None),
    ]
    assert (set(alone.tasks), alone.stages[0]) == ({"language", "match"}, arm.recipe.stages[0])
    assert made["sum"].stages[1].combiner is None
    assert [stage.name for stage in made["no-pretraining"].stages] == ["finetune"]
    assert made["joint"].stages[0].tasks == ("language", "topic", "match")
    sized = controls.same_size(arm, 19, catalogue).recipe.stages[1].strategy
    assert sized is not None
    assert (sized.type, sized.options["r"]) == ("lora", 19)


def test_a_control_that_is_an_arm_already_is_left_out(recipe: Path, catalogue: Catalogue) -> None:
    given = arms.build(arms.Request(recipe, arms.vary(["stages.finetune.combiner=pcgrad,null"])), catalogue)
    assert [arm.name for arm in controls.build(given[0], given, ["sum"], catalogue)] == []


WRONG: dict[str, tuple[Any, str]] = {
    "no value": (lambda: arms.vary(["stages.1.combiner="]), r"--vary stages.1.combiner=: expected KEY.PATH=VALUE"),
    "one value twice": (lambda: arms.vary(["seed=1,1"]), "a value is there twice"),
    "no seeds": (lambda: arms.seeds_of([1, 1], "here"), "here: found .*, expected how many seeds"),
    "unknown control": (lambda: controls.checked(["singel"]), "no control is called 'singel'. Did you mean 'single'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(HftError, match=message):
        call()


def test_a_wrong_override_names_its_arm(recipe: Path, catalogue: Catalogue) -> None:
    with pytest.raises(HftError, match="no stage is called 'finetun'"):
        arms.build(arms.Request(recipe, {"a": ["stages.finetun.combiner=sum"]}), catalogue)
    with pytest.raises(HftError, match=r"arm 'a': .*strategy 'lroa'"):
        arms.build(arms.Request(recipe, {"a": ["stages.finetune.strategy=lroa"]}), catalogue)
    with pytest.raises(HftError, match="no arm is called 'b'"):
        arms.build(arms.Request(recipe, {"a": []}, against="b"), catalogue)
