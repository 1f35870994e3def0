"""What a run was begun with, compared with what it is resumed with."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hft_core.pins import Pins, Place

PINS = Pins(
    recipe="r",
    model="model",
    weights="w",
    heads={"language": "h"},
    fresh_heads={"topic": "f"},
    configuration="c",
    tokenizer="t",
    rows={"train": {"topic": "1"}, "dev": {"topic": "2"}},
    files={"task 'topic': teacher (/runs/a)": "a"},
    code={"hft-core": "x", "the file of combiner 'mine'": "y"},
    versions={"torch": "2.10", "transformers": "5.3"},
)
PLACE = Place(processes="1 process on cpu", device="a processor", instructions="AVX2", threads=1)


def test_pins_are_the_same_after_they_were_written_as_json() -> None:
    assert Pins.from_json(json.loads(json.dumps(PINS.to_json()))) == PINS


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({}, []),
        ({"recipe": "s", "commit": "0123"}, []),
        ({"weights": "v"}, ["the weights of the base model"]),
        ({"heads": {"language": "i"}}, ["the base model's head of task 'language'"]),
        ({"configuration": "d"}, ["the configuration of the base model"]),
        ({"tokenizer": "u"}, ["the tokenizer"]),
        ({"rows": {"train": {"topic": "1"}, "dev": {"topic": "3"}}}, ["the rows of task 'topic', dev"]),
        ({"rows": {"train": {"topic": "1"}}}, ["the rows of task 'topic', dev"]),
        ({"files": {}}, ["the file or folder in task 'topic': teacher (/runs/a)"]),
        ({"code": {**PINS.code, "hft-core": "z"}}, ["the code of hft-core"]),
        ({"fresh_heads": {"topic": "g"}}, ["the first weights of task 'topic'"]),
        ({"versions": {"torch": "2.11", "transformers": "5.3"}, "fresh_heads": {"topic": "g"}}, []),
        ({"versions": {"torch": "2.10", "transformers": "5.4"}, "configuration": "d", "tokenizer": "u"}, []),
    ],
)
def test_what_changed_is_named(other: dict[str, Any], named: list[str]) -> None:
    assert PINS.changes(replace(PINS, **other), same_place=True) == named


def test_data_of_the_hub_is_compared_by_its_rows_and_its_commits_are_told() -> None:
    before, now = (replace(PINS, data_commits={"hf://a/b:train": mark * 40}) for mark in "cd")
    assert before.changes(now, same_place=True) == []
    assert before.moved_data(now) == [f"hf://a/b:train was the commit {'c' * 12} and is {'d' * 12}"]
    assert before.moved_data(PINS) == before.moved_data(before) == []


def test_fresh_heads_are_compared_in_the_same_place_only() -> None:
    assert PINS.changes(replace(PINS, fresh_heads={"topic": "g"}), same_place=False) == []


def test_other_versions_are_named() -> None:
    now = replace(PINS, versions={"torch": "2.11", "transformers": "5.3", "peft": "0.21"})
    assert PINS.version_changes(now) == ["torch 2.10, now 2.11", "peft missing, now 0.21"]


def test_a_place_is_told_by_what_differs() -> None:
    assert PLACE.differences(replace(PLACE, threads=2, instructions="DEFAULT")) == (
        "instructions AVX2, 1 thread",
        "instructions DEFAULT, 2 threads",
    )
