from __future__ import annotations

import pytest

from hft_core.errors import RecipeError, UsageError
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe.did_you_mean import COMMANDS, FLAGS, SYNONYMS, places, suggest_command, suggest_flag, suggest_key
from hft_core.recipe.recipe_file import from_dict, load, parse
from hft_core.recipe.resolve import resolve

RECIPE = """\
backbone: encoder
tasks:
  topic: {head: classification, data: news.csv}
stages:
  - {name: train}
"""
RUN = ["--backbone", "--task", "--set", "--out", "--processes", "--resume", "--json"]


@pytest.mark.parametrize(
    ("old", "new", "meant"),
    [
        ("{name: train}", "{lr: 1e-3}", "learning_rate"),
        ("{name: train}", "{batch_size: 8}", "train_batch_size"),
        ("{name: train}", "{num_epochs: 8}", "num_train_epochs"),
        ("{name: train}", "{lr_scheduler: linear}", "lr_scheduler_type"),
        ("{name: train}", "{grad-accum: 2}", "gradient_accumulation_steps"),
        ("{name: train}", "{save_steps: 2}", "output.save_steps"),
        ("{name: train}", "{weights: 2}", "stages.0.sampling.weights"),
        ("{name: train}", "{peft: lora}", "strategy"),
        ("backbone: encoder", "backbone: encoder\nlearning_rate: 1e-3", "stages.0.learning_rate"),
        ("backbone: encoder", "backbone: encoder\nlerning_rate: 1e-3", "stages.0.learning_rate"),
        ("backbone: encoder", "backbone: encoder\nepochs: 3", "stages.0.num_train_epochs"),
        ("backbone: encoder", "model: encoder", "backbone"),
        ("backbone: encoder", "backbone: encoder\nfp16: true", "precision"),
        ("data: news.csv", "data: {train: a.csv, validation: b.csv}", "dev"),
        ("data: news.csv", "data: {files: a.csv, test_size: 0.2}", "test"),
    ],
)
def test_what_others_call_a_key_is_pointed_to_it(old: str, new: str, meant: str) -> None:
    with pytest.raises(RecipeError, match="unknown key") as refused:
        load(parse(RECIPE.replace(old, new), "recipe"))
    assert f"Did you mean '{meant}'?" in str(refused.value)


@pytest.mark.parametrize(
    ("assignment", "meant"),
    [
        ("learning_rate=1e-3", "stages.0.learning_rate"),
        ("stages.0.lr=1e-3", "learning_rate"),
        ("stages.train.batch_size=8", "train_batch_size"),
        ("batch_size=8", "stages.0.train_batch_size"),
        ("model=encoder", "backbone"),
        ("tasks.topic.data.validation=a.csv", "dev"),
    ],
)
def test_a_set_is_pointed_to_the_key(assignment: str, meant: str) -> None:
    with pytest.raises(RecipeError, match="has no key") as refused:
        load(parse(RECIPE, "recipe"), [assignment])
    assert str(refused.value).endswith(f"Did you mean '{meant}'?")


@pytest.mark.parametrize(
    ("place", "option", "meant"),
    [
        ("strategy", "rank", "r"),
        ("strategy", "alpha", "lora_alpha"),
        ("strategy", "lr", "stages.0.learning_rate"),
        ("head", "max_seq_length", "max_length"),
        ("head", "learning_rate", "stages.0.learning_rate"),
    ],
)
def test_an_option_of_a_plugin_is_pointed_to_its_name(place: str, option: str, meant: str) -> None:
    data = {
        "backbone": {"type": "hf-encoder", "model": "encoder"},
        "tasks": {"topic": {"head": {"type": "classification", **({option: 1} if place == "head" else {})}}},
        "stages": [{"strategy": {"type": "lora", **({option: 1} if place == "strategy" else {})}}],
    }
    with pytest.raises(UsageError, match=f"has no option '{option}'. Did you mean '{meant}'"):
        resolve(from_dict(data), Catalogue.discover())


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--epochs", "--set stages.0.num_train_epochs=…"),
        ("--lr", "--set stages.0.learning_rate=…"),
        ("--learning-rate", "--set stages.0.learning_rate=…"),
        ("--batch-size", "--set stages.0.train_batch_size=…"),
        ("--batchsize", "--set stages.0.train_batch_size=…"),
        ("--learning-rat", "--set stages.0.learning_rate=…"),
        ("--seed", "--set seed=…"),
        ("--model", "--backbone"),
        ("--output_dir", "--out"),
        ("--num-processes", "--processes"),
        ("--outt", "--out"),
    ],
)
def test_a_flag_is_pointed_to_a_flag_or_key(flag: str, meant: str) -> None:
    assert suggest_flag(flag, RUN) == f" Did you mean '{meant}'?"


def test_a_command_without_set_lists_its_flags() -> None:
    assert suggest_flag("--epochs", ["--json", "--help"]) == " Known: --help, --json."


def test_a_command_is_pointed_to_the_one_that_does_the_same() -> None:
    assert suggest_command("train", ["run", "predict"]) == " Did you mean 'run'?"
    assert suggest_command("export", ["run", "predict"]) == " Known: predict, run."


def test_a_name_that_means_nothing_lists_the_known_ones() -> None:
    assert suggest_key("colour", ["r", "bias"]) == " Known: bias, r."


def test_no_synonym_is_the_name_of_another_key_of_the_same_place() -> None:
    """Else a name that exists would be explained as another one."""
    of_stages = {key for key, place in places().items() if place == f"stages.0.{key}"}
    for key, names in SYNONYMS.items():
        if key in of_stages:
            assert not of_stages & set(names), key
    for table in (SYNONYMS, FLAGS, COMMANDS):
        assert all(len(set(names)) == len(names) for names in table.values())
