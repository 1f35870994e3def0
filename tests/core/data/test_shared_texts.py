from __future__ import annotations

from typing import Any

from hft_core.data import loading, shared_texts
from hft_core.data.rows import Rows
from hft_core.head import Column

TEXT, LABEL = Column("text", "text"), Column("label", "label", target=True)


def rows(*cells: tuple[Any, ...], names: tuple[str, ...] = ("text", "label")) -> Rows:
    return loading.from_python([dict(zip(names, row, strict=True)) for row in cells], task="t")


def found(*columns: Column, **splits: Rows) -> list[str]:
    return shared_texts.warnings({"t": columns}, {"t": splits})


def test_texts_of_train_in_other_splits_are_counted() -> None:
    train = rows(("one", "x"), ("two", "y"), ("three", "x"))
    dev, test = rows(("four", "x")), rows(("five", "x"), (" two ", "x"), ("one", "x"))
    assert found(TEXT, LABEL, train=train, dev=dev) == []
    (said,) = found(TEXT, LABEL, train=train, dev=dev, test=test)
    assert said == (
        "task 't': 2 of 3 test rows have the texts of train rows (first: row 2 of task 't'): the scores on test are of "
        "what was trained on"
    )


def test_a_pair_is_another_one_if_either_text_is() -> None:
    names = ("one", "two", "label")
    columns = (Column("one", "text"), Column("two", "text"), LABEL)
    train = rows(("a", "b", "x"), ("a", "c", "y"), names=names)
    assert found(*columns, train=train, test=rows(("b", "d", "x"), ("a", "d", "x"), names=names)) == []
    (said,) = found(*columns, train=train, test=rows(("b", "d", "x"), ("a", "c", "x"), names=names))
    assert "1 of 2 test rows have the texts of train rows" in said


def test_pairs_that_train_has_in_the_other_order_are_counted() -> None:
    names = ("one", "two", "label")
    columns = (Column("one", "text"), Column("two", "text"), LABEL)
    train = rows(("a", "b", "x"), ("a", "c", "y"), ("c", "a", "y"), names=names)
    (said,) = found(*columns, train=train, test=rows(("d", "a", "x"), (" b", "a ", "x"), names=names))
    assert said == (
        "task 't': 1 of 2 test rows have the two texts of train rows in the other order (first: row 2 of task 't')"
    )
    (said,) = found(*columns, train=train, test=rows(("c", "a", "x"), names=names))
    assert "the texts of train rows" in said


def test_texts_with_several_labels_are_counted() -> None:
    train = rows(("one", "x"), ("two", "x"), ("two", "x"), ("three", "x"), ("three", "y"), ("one", 1), ("four", "1"))
    (said,) = found(TEXT, LABEL, train=train)
    assert said.startswith("task 't': 2 texts of train have several labels in different rows (first: row 1 of task")
    assert found(TEXT, LABEL, train=rows(("one", 1), ("one", "1"))) == [], "labels are compared as texts"
    assert found(TEXT, train=train) == []


def test_texts_that_another_task_trains_on_are_named() -> None:
    train, test = rows(("one", "x"), ("two", "y")), rows(("three", "x"), ("four", "x"))
    language = loading.from_python([{"body": "three"}, {"body": "one"}], task="language")
    columns = {"t": (TEXT, LABEL), "language": (Column("body", "text"),)}
    data = {"t": {"train": train, "test": test}, "language": {"train": language}}
    assert shared_texts.warnings(columns, data) == [
        "task 't': 1 of 2 test rows have texts that another task trains on (language; first: row 1 of task 't')"
    ]


def test_lists_and_messages_are_compared() -> None:
    column = Column("words", "text", many=True)
    train = loading.from_python([{"words": ["a", "b"]}, {"words": ["a", "c"]}], task="t")
    test = loading.from_python([{"words": ["a", "c"]}, {"words": ["a", "d"]}], task="t")
    (said,) = found(column, train=train, test=test)
    assert "1 of 2 test rows" in said
