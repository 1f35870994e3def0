from __future__ import annotations

import json
import time
import unicodedata
from typing import Any

import pytest

from hft_core import RecipeError, UsageError
from hft_core.recipe import names, recipe_file
from hft_core.recipe.flags import task_from_flag

GOOD = [
    "topic",
    "\u60c5\u611f",
    "\u0394\u03ad\u03bb\u03c4\u03b1",
    "\u0939\u093f\u0928\u094d\u0926\u0940",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0646\u0645",
    "\u0e44\u0e17\u0e22",
    "col\u00b7lecci\u00f3",
    "\u2460",
    "2024-q1_b",
    "\U0001f600",
    "\uac10\uc815",
    "console",
    "com",
    "nul1",
]
BAD = [
    "",
    "-a",
    "_a",
    "a b",
    "a/b",
    "a.b",
    "a\u200bb",
    "a\u202eb",
    "\u0301a",
    "\ufeffa",
    "a\x1b",
    "a\u200cb",
    "\u60c5\u200c",
    "x" * 65,
    "a:",
    "\ufffd",
    "a\u00a0b",
    "\ue000",
]
RESERVED = ["con", "NUL", "Aux", "prn", "LPT1", "com9", "COM\u00b2"]


def recipe(named: list[str], **stage: Any) -> dict[str, Any]:
    part = {"head": "classification", "data": "x.csv"}
    return {"backbone": "x", "tasks": dict.fromkeys(named, part), "stages": [{"epochs": 1, **stage}]}


@pytest.mark.parametrize("name", GOOD)
def test_a_name_is_a_word_in_any_script(name: str) -> None:
    read = recipe_file.from_dict(recipe([name], name=name))
    assert (list(read.tasks), read.stages[0].name) == ([name], name)
    assert list(recipe_file.validate(recipe_file.parse(recipe_file.dump(read), "r")).tasks) == [name]
    assert task_from_flag(f"{name}=mlm:x.txt")[0] == name


@pytest.mark.parametrize("name", [*BAD, *RESERVED])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=r"expected a name|device on Windows|no stage"):
        recipe_file.from_dict(recipe([name]))
    with pytest.raises(RecipeError):
        recipe_file.from_dict(recipe(["topic"], name=name or "-"))
    with pytest.raises(UsageError):
        task_from_flag(f"{name}=mlm:x.txt")


@pytest.mark.parametrize(
    "pair",
    [
        ("Topic", "topic"),
        ("STRASSE", "stra\u00dfe"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u062e"),
        ("caf\u00e9", "cafe\u0301"),
        ("Trunk", "b"),
    ],
)
def test_names_that_a_file_system_takes_for_one_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(RecipeError, match=r"recipe, tasks.*(case does not count|two of Unicode|kept for the trunk)"):
        recipe_file.from_dict(recipe(list(pair)))


def test_the_form_in_which_a_name_is_written_does_not_count() -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert unicodedata.normalize("NFC", apart) == composed
    stage = {
        "tasks": [apart],
        "name": apart,
        "sampling": {"weights": {apart: 2}},
        "metric_for_best_model": f"{apart}.f1",
    }
    read = recipe_file.from_dict(recipe([composed], **stage))
    assert read.stages[0].tasks == (composed,)
    assert read.stages[0].name == composed
    assert read.stages[0].sampling.weights == {composed: 2}
    assert read.stages[0].metric_for_best_model == f"{composed}.f1"
    changed = recipe_file.override(recipe_file.Source.of(recipe([composed])), [f"tasks.{apart}.max_length=9"])
    assert recipe_file.validate(changed).tasks[composed].max_length == 9


@pytest.mark.parametrize("count", [10_000])
def test_a_recipe_of_many_tasks_and_stages_is_read_in_time(count: int) -> None:
    many = [f"t{i}" for i in range(count)]
    started = time.process_time()
    recipe_file.from_dict(recipe(many))
    one = recipe(["topic"])
    one["stages"] = [{"epochs": 1} for _ in many]
    recipe_file.from_dict(one)
    with pytest.raises(RecipeError, match="no stage trains the task"):
        recipe_file.from_dict(recipe(many, tasks=["t0"]))
    assert time.process_time() - started < 20
    with pytest.raises(RecipeError, match=r"recipe, tasks: 10,001 tasks, expected at most 10,000"):
        recipe_file.from_dict(recipe([*many, "more"]))
    with pytest.raises(RecipeError, match=r"stages: 200,000 stages, expected at most 10,000"):
        recipe_file.from_dict({**one, "stages": [{}] * 200_000})


def test_a_rare_character_may_be_written_as_json_writes_it() -> None:
    text = json.dumps(recipe(["\U00020bb7"]))
    assert "\\ud842" in text
    assert list(recipe_file.validate(recipe_file.parse(text, "r")).tasks) == ["\U00020bb7"]
    with pytest.raises(RecipeError, match=r"line 1: .* contains half of a pair"):
        recipe_file.parse(text.replace("\\udfb7", ""), "r")


def test_the_folded_name_is_what_two_names_have_in_common() -> None:
    assert names.folded("\u00c4b") == names.folded("A\u0308B")
    assert names.collision(["a", "b", "A"]) == ("a", "A")
    assert names.collision(["a", "b"]) is None
