from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from hft_core.cli.predict import _print_answers
from hft_core.data import loading
from hft_core.predict.answer_lines import with_input


def joined(rows: list[dict[str, Any]], answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(with_input(loading.from_python(rows, task="topic"), answers))


def test_each_answer_keeps_the_columns_of_its_row() -> None:
    rows = [{"text": "a", "day": date(2026, 1, 2), "parts": ["x"]}, {"text": "b", "day": None, "parts": []}]
    found = joined(rows, [{"label": "one", "probabilities": {"one": 1.0}}, {"label": "two", "probabilities": {}}])
    assert found[0] == {**rows[0], "day": "2026-01-02", "label": "one", "probabilities": {"one": 1.0}}
    assert [row["text"] for row in found] == ["a", "b"]


def test_a_column_with_the_name_of_an_answers_key_is_kept_under_another() -> None:
    found = joined([{"text": "a", "label": "right", "input_label": "x"}], [{"label": "said"}])
    assert found == [{"text": "a", "input_input_label": "right", "input_label": "x", "label": "said"}]


@pytest.mark.parametrize(
    ("answer", "heading", "line"),
    [
        ({"label": "a", "probabilities": {"a": 0.75}}, "row  answer  probability", "1    a       0.7500"),
        ({"value": "span", "start": 0}, "row  answer", "1    span"),
        ({"value": 0.5}, "row  answer", "1    0.5"),
        ({"text": "generated"}, "row  answer", "1    generated"),
    ],
)
def test_the_table_has_the_columns_that_the_answers_fill(
    answer: dict[str, Any], heading: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _print_answers([{"task": answer}], several=False)
    assert [text.rstrip() for text in capsys.readouterr().out.splitlines()] == [heading, line]


def test_the_table_of_several_tasks_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    _print_answers([{"a": {"value": 1}, "b": {"label": "x", "probabilities": {"x": 1.0}}}], several=True)
    assert capsys.readouterr().out.splitlines()[1:] == ["1    a     1", "1    b     x       1.0000"]
