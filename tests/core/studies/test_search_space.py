"""What a sweep may choose is parsed, and every value is checked before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hft_core import Catalogue, HftError
from hft_core.recipe import recipe_file
from hft_core.studies import search_space
from hft_core.studies.search_space import Dimension, Range
from hft_core.studies.sweep_plan import request

optuna = pytest.importorskip("optuna")

RECIPE = """
backbone: {type: hf-encoder, model: some/model}
tasks:
  topic: {head: classification, data: a.csv}
stages:
  - {name: finetune, tasks: [topic], strategy: {type: lora, r: 4}}
"""
STRATEGY = "stages.finetune.strategy=lora,full,{type: bitfit}"


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.discover()


def checked(catalogue: Catalogue, *search: str) -> list[Dimension]:
    return search_space.checked(search_space.parse(search), recipe_file.parse(RECIPE, "recipe.yaml"), catalogue)


def test_ranges_and_choices_are_parsed() -> None:
    rate, rank, strategy = search_space.parse(
        ["stages.0.learning_rate=log:1e-5:1e-2", "stages.0.strategy.r=int:4:64@lora", STRATEGY]
    )
    assert rate.values == Range("log", 1e-5, 1e-2) and rate.ends == ("1e-05", "0.01")
    assert rank.values == Range("int", 4, 64) and rank.plugins == ("lora",) and rank.ends == ("4", "64")
    assert strategy.values == ("lora", "full", "{type: bitfit}")


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (["stages.0.learning_rate"], "expected PATH=log:LOW:HIGH"),
        (["stages.0.learning_rate=log:1e-5"], "expected PATH=log:LOW:HIGH"),
        (["stages.0.learning_rate=log:0:1"], "a logarithmic range begins above 0, not at 0"),
        (["stages.0.learning_rate=float:2:1"], "expected a lower bound below the upper one, not 2 and 1"),
        (["stages.0.max_steps=int:1.5:4"], "found 1.5 and 4, expected whole numbers"),
        (["stages.0.max_steps=4,4"], "a value is empty or there twice"),
        (["stages.0.max_steps=4,5", "stages.0.max_steps=6,7"], "'stages.0.max_steps' is searched twice"),
        (["stages.0.max_steps=log:1:10"], "expected a whole number"),
        (["stages.0.learnig_rate=log:1e-5:1e-2"], "Did you mean 'learning_rate'?"),
        (["stages.0.learning_rate=log:1e-5:1e-2", "stages.0.warmup=fast,slow"], "has no key 'warmup'"),
        (["stages.0.strategy=lora,fll"], "Did you mean 'full'?"),
        (["stages.0.strategy.r=int:0:64"], "strategy 'lora': expected a number >"),
        ([STRATEGY, "stages.finetune.strategy.rr=int:4:64"], "'lora', 'full', 'bitfit': no option 'rr'"),
        ([STRATEGY, "stages.finetune.strategy.r=int:4:64@full"], "'full': no option 'r'"),
        ([STRATEGY, "stages.finetune.strategy.r=int:4:64@dora"], "'dora' is not among the plugins that are searched"),
        (
            ["stages.finetune.strategy.r=int:4:64@lora"],
            "no --search chooses the plugin of 'stages.finetune.strategy.r'",
        ),
        ([], "nothing to search"),
    ],
)
def test_what_cannot_be_searched_is_said_with_the_flag(search: list[str], said: str, catalogue: Catalogue) -> None:
    with pytest.raises(HftError) as error:
        checked(catalogue, *search)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    if search:
        assert str(error.value).startswith("--search ")


def test_an_option_is_chosen_where_its_plugin_is(catalogue: Catalogue) -> None:
    dimensions = checked(catalogue, "stages.finetune.strategy.r=int:4:64", STRATEGY)
    assert [d.name for d in dimensions] == ["stages.finetune.strategy", "stages.finetune.strategy.r@lora"]
    values = {"stages.finetune.strategy.r@lora": 16}
    lora = search_space.suggested(optuna.trial.FixedTrial({"stages.finetune.strategy": "lora", **values}), dimensions)
    assert lora == {"stages.finetune.strategy": "lora", "stages.finetune.strategy.r": "16"}
    full = search_space.suggested(optuna.trial.FixedTrial({"stages.finetune.strategy": "full"}), dimensions)
    assert full == {"stages.finetune.strategy": "full"}


def test_a_file_says_the_same_as_flags(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "recipe: recipe.yaml\ntrials: 7\npruner: none\nsearch:\n"
        "  stages.finetune.learning_rate: {log: [1e-5, 1e-2]}\n"
        "  stages.finetune.strategy: [lora, {type: bitfit}]\n"
        "  stages.finetune.strategy.r@lora: {int: [4, 64]}\n"
    )
    asked = request(file, (), None, None, None)
    assert (asked.trials, asked.pruner, asked.recipe) == (7, "none", str(tmp_path / "recipe.yaml"))
    rate, strategy, rank = search_space.parse(asked.search)
    assert (rate.values, rank.values, rank.plugins) == (Range("log", 1e-5, 1e-2), Range("int", 4, 64), ("lora",))
    assert strategy.values == ('"lora"', '{"type": "bitfit"}')
    assert request(file, ["stages.0.max_steps=1,2"], 3, None, None).search == ("stages.0.max_steps=1,2",)
    file.write_text("recipe: recipe.yaml\nserach: {}\n")
    with pytest.raises(HftError, match=r"a sweep has no key 'serach'\. Did you mean 'search'\?"):
        request(file, (), None, None, None)
