from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from hft_core.data.loading import Rows, check, check_each, from_python, read
from hft_core.errors import DataError
from hft_core.head import Column

TEXT = Column("text", "text")
LABEL = Column("label", "label", target=True)
SCORE = Column("score", "number", target=True)

Write = Callable[[str, str | bytes], str]


def read_one(path: str) -> Rows:
    return read([path], None, "line", task="topic")


def test_batches_cover_the_rows_in_order(write: Write) -> None:
    rows = read_one(write("a.csv", "text,n\n" + "".join(f"t{i},{i}\n" for i in range(7))))
    batches = list(rows.batches(3, ["n"]))
    assert [list(indices) for indices, _ in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [batch for _, batch in batches][2] == {"n": ["6"]}
    with pytest.raises(KeyError):
        rows["nothing"]


@pytest.mark.parametrize(
    ("records", "column", "parts"),
    [
        ([{"text": "a"}, {"text": ""}], TEXT, ["row 2 of task 'topic'", "'text': found ''", "a non-empty text"]),
        ([{"text": " \n"}], TEXT, ["found ' \\n'"]),
        ([{"text": "a"}, {"text": None}, {"text": 3}], TEXT, ["row 2", "found nothing", "(and 1 more row)"]),
        ([{"text": 3}, {"text": 4}, {"text": 5}], TEXT, ["row 1", "found 3", "(and 2 more rows)"]),
        ([{"text": ["a"] * 99}], TEXT, ["found ['a', 'a', ", "…"]),
        ([{"text": "\ud800"}], TEXT, ["found '\\ud800'"]),
        ([{"text": "a"}, {"txt": "b"}], TEXT, ["row 2 of task", "found nothing (null, or no such key)"]),
        ([{"label": "a"}, {"label": 1.5}], LABEL, ["found 1.5", "a label (text, a whole number or true/false)"]),
        ([{"label": "  "}], LABEL, ["found '  '"]),
        ([{"label": None, "text": "a"}], LABEL, ["found nothing"]),
        ([{"score": "1,5"}], SCORE, ["found '1,5'", "a finite number"]),
        ([{"score": float("nan")}, {"score": float("inf")}], SCORE, ["found nan", "(and 1 more row)"]),
        ([{"score": True}], SCORE, ["found True"]),
        ([{"score": "nan"}], SCORE, ["found 'nan'"]),
        ([{"score": "1_000"}], SCORE, ["found '1_000'"]),
        ([{"score": 10**400}], SCORE, ["found 1000", "…"]),
    ],
)
def test_a_bad_row_gives_its_place_what_was_found_and_what_was_expected(
    records: list[dict[str, Any]], column: Column, parts: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        check(from_python(records, task="topic"), [column], task="topic", split="dev")
    message = str(caught.value)
    assert message.startswith("task 'topic' (dev): row ")
    assert "\n" not in message
    assert len(message) < 200
    for part in parts:
        assert part in message


def test_a_bad_cell_of_a_file_is_named_by_file_and_row(write: Write) -> None:
    rows = read_one(write("news.csv", "text,label\na,x\n ,y\n"))
    with pytest.raises(DataError) as caught:
        check(rows, [TEXT, LABEL], task="topic", split="train")
    assert str(caught.value) == (
        "task 'topic' (train): news.csv, row 2: column 'text': found ' ', expected a non-empty text"
    )


def test_a_missing_column_is_named_with_those_there_are(write: Write) -> None:
    rows = read_one(write("news.csv", "txt,label\na,x\n"))
    with pytest.raises(DataError) as caught:
        check(rows, [TEXT], task="topic", split="train")
    assert "news.csv has no column 'text'" in str(caught.value)
    assert "its columns are 'txt', 'label'. Did you mean 'txt'?" in str(caught.value)


def test_a_csv_with_semicolons_says_what_separates_cells(write: Write) -> None:
    with pytest.raises(DataError, match="cells are separated by commas in csv"):
        check(read_one(write("news.csv", "text;label\na;x\n")), [TEXT], task="topic", split="train")


def test_rows_to_predict_on_need_no_targets() -> None:
    rows = from_python([{"text": "a"}], task="topic")
    check(rows, [TEXT, LABEL], task="topic", split=None, need_targets=False)
    with pytest.raises(DataError, match="no column 'label'"):
        check(rows, [TEXT, LABEL], task="topic", split=None)


def test_a_check_of_ones_own_names_the_row(write: Write) -> None:
    rows = read_one(write("news.csv", "text,label\na,x\nb,q\nc,q\n"))
    with pytest.raises(DataError) as caught:
        check_each(
            rows,
            lambda r: f"label {r['label']!r} is unknown" if r["label"] == "q" else "",
            ["label"],
            task="t",
            split=None,
        )
    assert str(caught.value) == "task 't': news.csv, row 2: label 'q' is unknown (and 1 more row)"


def test_lists_of_one_type_are_lists_in_arrow_and_any_others_keep_each_value() -> None:
    lists = {
        "words": [["a", "b"], [], None],
        "shares": [[0.5, 0.5], [1.0], []],
        "counts": [[1], [2, 3], []],
        "empty": [[], [], []],
        "mixed": [[1, 0.5], ["a"], [True]],
        "deep": [[["a"]], [], []],
        "some": [["a"], "a", ["b"]],
    }
    rows = from_python([{name: cells[i] for name, cells in lists.items()} for i in range(3)], task="t")
    assert {name: rows[name] for name in rows.columns} == lists
    types = {name: rows.dataset.data.schema.field(name).type for name in rows.columns}
    assert [types[name] for name in ("words", "shares", "counts")] == [
        pa.list_(kind) for kind in (pa.string(), pa.float64(), pa.int64())
    ]
    assert rows.mixed == {"mixed", "deep", "some"}


def test_class_numbers_in_lists_are_used_by_their_names(tmp_path: Path) -> None:
    tags = datasets.List(datasets.ClassLabel(names=["O", "B-PER"]))
    data = datasets.Dataset.from_dict({"tags": [[0, 1], [], [-1]]}, features=datasets.Features({"tags": tags}))
    data.to_parquet(tmp_path / "tags.parquet")
    for rows in (from_python(data, task="t"), read([str(tmp_path / "tags.parquet")], None, "line", task="t")):
        assert rows["tags"] == [["O", "B-PER"], [], [None]]


def test_a_dotted_name_reads_what_objects_hold() -> None:
    rows = from_python([{"a": {"b": {"c": 1}}}, {"a": [{"b": {"c": 2}}, {"b": {}}]}, {"a": {}}, {"a": 3}], task="t")
    assert rows["a.b.c"] == [1, [2, None], None, None]
    assert [rows.has(name) for name in ("a", "a.b", "b", "")] == [True, True, False, False]
    assert from_python([{"a.b": 1, "a": {"b": 2}}], task="t")["a.b"] == [1]
    assert [batch for _, batch in rows.select([0]).batches(5, ["a", "a.b"])] == [
        {"a": [{"b": {"c": 1}}], "a.b": [{"c": 1}]}
    ]
    with pytest.raises(KeyError):
        rows["b.a"]
    with pytest.raises(DataError, match=r"row 1 of task 't': column 'a.c': found nothing"):
        check(rows, [Column("a.c", "text")], task="t")
    with pytest.raises(DataError, match=r"has no column 'answers\.text'"):
        check(rows, [Column("answers.text", "text")], task="t")


def test_keys_that_only_other_rows_have_are_no_nulls_at_any_depth(tmp_path: Path) -> None:
    calls: list[Any] = [{"city": "Rome"}, {"x": [{"q": 1}, {"z": [{"u": "v"}, {}]}], "y": 2}]
    talks = [[{"role": "user", "call": {"name": "f", "arguments": call}}] for call in calls]
    table = datasets.Dataset.from_list([{"talk": talk} for talk in talks])
    assert table["talk"][0][0]["call"]["arguments"] == {"city": "Rome", "x": None, "y": None}
    table.to_parquet(tmp_path / "talks.parquet")
    for rows in (from_python(table, task="t"), read([str(tmp_path / "talks.parquet")], None, "line", task="t")):
        assert rows["talk"] == talks
        assert rows.select([1])["talk"] == talks[1:]


def test_nulls_that_a_json_file_holds_stay(write: Write) -> None:
    path = write("talks.jsonl", '{"call": {"unit": null, "units": [null, 1]}}\n{"call": {"city": "Rome"}}\n')
    assert read([path], None, "line", task="t")["call"] == [{"unit": None, "units": [None, 1]}, {"city": "Rome"}]
