from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from hft_core.errors import RecipeError
from hft_core.recipe.yaml_source import MAX_BYTES, MAX_DEPTH, parse, read

GOOD = Path(__file__).with_name("good.yaml").read_text()


def values(text: str) -> Any:
    return parse(f"value: {text}", "recipe.yaml").data["value"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(word, word) for word in ("no", "yes", "on", "off", "y", "12:30", "2024-01-01", "1_000", "0b1", "1e", "e5")],
        *[("1e-4", 1e-4), ("1.5e3", 1500.0), ("1E+2", 100.0), (".5", 0.5), ("5.", 5.0), ("-1.0", -1.0)],
        *[(".inf", math.inf), ("-.INF", -math.inf), ("010", 10), ("0o10", 8), ("0x1F", 31), ("-3", -3), ("+3", 3)],
        *[("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("Nan", "Nan"), ("tRue", "tRue")],
        *[("'1'", "1"), ('"true"', "true"), ("''", ""), ("[1, no]", [1, "no"]), ("{on: 1, 2: b}", {"on": 1, "2": "b"})],
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    read_value = values(text)
    assert (read_value, type(read_value)) == (value, type(value))


def test_nan_is_a_number() -> None:
    assert math.isnan(values(".nan"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty", "'backbone'"]),
        ("# nothing\n", ["is empty"]),
        ("- a\n", ["line 1", "mapping"]),
        ("text", ["line 1", "mapping"]),
        ("a: 1\nb: 2\na: 3\n", ["line 3", "'a' is given twice", "line 1"]),
        ("a:\n  b: {c: 1,\n    c: 2}\n", ["line 3", "'c' is given twice", "line 2"]),
        ("a: &x 1\n", ["line 1", "anchors"]),
        ("a: 1\nb: *x\n", ["line 2", "aliases"]),
        ("a:\n  <<: {b: 1}\n", ["line 2", "merge keys"]),
        ("a: !!python/object:os.system x\n", ["line 1", "tags"]),
        ("a: !!int 3\n", ["tags"]),
        ("a: ! x\n", ["tags"]),
        ("a: 1\n--- \nb: 2\n", ["line 2", "second document"]),
        ("a: [1\nb: 2\n", ["line 2", "not valid YAML"]),
        ("a:\n\tb: 1\n", ["line 2", "a tab"]),
        ("a: b: c\n", ["line 1", "': '"]),
        ("a: 1\nb: \x07\n", ["line 2", "U+0007"]),
        ("a: " + "[" * (MAX_DEPTH + 1), ["levels deep"]),
        ("a: " + "[" * 300_000, ["levels deep"]),
        ("a: " + "9" * 5000, ["line 1", "digits"]),
        ("? [a, b]\n: 1\n", ["line 1", "one word of text"]),
        ("a: '" + "x" * MAX_BYTES + "'", ["larger than 1 MiB"]),
    ],
)
def test_bad_yaml_is_one_line_with_the_place(text: str, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text, "recipe.yaml")
    assert str(caught.value).startswith("recipe.yaml")
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml, line 2: not valid UTF-8"):
        read(file)
    with pytest.raises(RecipeError, match=r"no such recipe file\. Did you mean 'recipe\.yaml'"):
        read(tmp_path / "recipes.yaml")
    with pytest.raises(RecipeError, match="not a folder"):
        read(tmp_path)
    file.write_bytes("ä".encode() * MAX_BYTES)
    with pytest.raises(RecipeError, match="larger than 1 MiB"):
        read(file)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert read(file).data == parse(GOOD, "x").data
    assert read(file).where(("stages", 0)) == f"{file}, line 9, stages.0"


# --- places


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("stages", 1, "learning_rate"), "line 15, stages.1.learning_rate"),
        (("stages", 0, "num_train_epochs"), "line 11, stages.0.epochs"),
        (("stages", 1, "strategy", "options", "r"), "line 13, stages.1.strategy.r"),
        (("stages", 1, "strategy", "alpha"), "line 13, stages.1.strategy"),
        (("stages", 0, "tasks", 0), "line 10, stages.0.tasks"),
        (("tasks", "topic", "head", "options", "loss"), "line 3, tasks.topic.loss"),
        (("tasks", "topic", "data", "files", 0), "line 3, tasks.topic.data"),
        (("tasks", "language", "data", "train", 0), "line 6, tasks.language.data.train.0"),
        (("backbone", "options", "model"), "line 1, backbone.model"),
        (("output", "logging_steps"), ""),
    ],
)
def test_where_names_the_key_as_it_was_written(path: tuple[str | int, ...], place: str) -> None:
    assert parse(GOOD, "recipe.yaml").where(path) == f"recipe.yaml, {place}".removesuffix(", ")


def test_a_stage_without_a_list_has_its_place() -> None:
    source = parse("stages:\n  strategy: lora\n", "recipe.yaml")
    assert source.where(("stages", 0, "strategy")) == "recipe.yaml, line 2, stages.strategy"
