from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hft_core.data import loading, odd_columns
from hft_core.head import Column

TEXT, OTHER = Column("text", "text"), Column("other", "text")
TARGET = Column("other", "text", target=True)
WORDS = [f"the cat saw dog {i}" for i in range(9)]


def found(columns: tuple[Column, ...], *cells: Sequence[Any]) -> list[str]:
    names = [column.name for column in columns]
    rows = loading.from_python([dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)], task="t")
    return odd_columns.warnings({"t": columns}, {"t": {"train": rows}})


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ('"{}"', "are in quotes, which are read as part of them"),
        ("'{}' ", "are in quotes"),
        ('{{"text": "{}"}}', "are JSON objects, which are read as text"),
        ("__label__sport {}", "begin with '__label__'"),
        ('"{}" he said', ""),
        ("[{}]", ""),
        ("{{{}}}", ""),
    ],
)
def test_texts_that_are_all_in_the_form_of_a_program_are_told(form: str, said: str) -> None:
    warnings = found((TEXT,), [form.format(text) for text in WORDS])
    assert len(warnings) == bool(said)
    assert all(line.startswith(f"task 't': all 9 texts of column 'text' {said}") for line in warnings)
    assert found((TEXT,), [form.format(text) for text in WORDS[1:]] + ["a text"]) == []
    assert found((TEXT,), [form.format(text) for text in WORDS[:4]]) == []


@pytest.mark.parametrize("second", [OTHER, TARGET])
def test_two_columns_with_the_same_texts_are_told(second: Column) -> None:
    assert found((TEXT, second), WORDS, [f" {word}" for word in WORDS]) == [
        "task 't': columns 'text' and 'other' hold the same text in all 9 train rows"
    ]
    assert found((TEXT, second), WORDS, [*WORDS[:-1], "another text"]) == []


def test_what_is_to_be_written_may_have_any_form() -> None:
    assert found((TEXT, TARGET), WORDS, [f'{{"text": "{word}"}}' for word in WORDS]) == []


def test_a_task_without_columns_of_single_texts_has_none() -> None:
    assert found((Column("words", "text", many=True),), [[word] for word in WORDS]) == []


def test_texts_that_all_hold_the_name_of_their_class_are_told() -> None:
    labels = ["sport", "money"] * 12
    texts = [f"{label.upper()}: the cat saw dog {i}" for i, label in enumerate(labels)]
    columns = (TEXT, Column("label", "label", target=True))
    (line,) = found(columns, texts, labels)
    assert line.startswith("task 't': the texts of all 24 train rows hold the name of their class in column 'label'")
    assert found(columns, ["a text", *texts[1:]], labels) == []
    assert found(columns, texts[:19], labels[:19]) == []
    assert found(columns, [f"a {i % 2}" for i in range(24)], [i % 2 for i in range(24)]) == []
