from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from hft_core.data import files
from hft_core.data.loading import Rows, from_python, load, of_host
from hft_core.errors import DataError
from hft_core.head import Column
from hft_core.recipe import schema

TEXT = Column("text", "text")
LABEL = Column("label", "label", target=True)

Write = Callable[[str, str | bytes], str]


def values(rows: Rows) -> dict[str, list[Any]]:
    return {name: rows[name] for name in rows.columns}


def test_lists_of_dicts_frames_and_datasets_give_the_same_rows() -> None:
    records = [{"text": "a", "label": 1}, {"text": "b", "label": 2}]
    frame = pd.DataFrame(records, index=[7, 7])
    for given_rows in (records, frame, datasets.Dataset.from_list(records), datasets.Dataset.from_pandas(frame)):
        rows = from_python(given_rows, task="topic")
        assert (rows["text"], rows["label"]) == (["a", "b"], [1, 2])
        assert rows.where(1) == "row 2 of task 'topic'"
    assert from_python(rows, task="topic") is rows


def test_missing_values_of_a_frame_are_none() -> None:
    frame = pd.DataFrame({"text": ["a", None, np.nan], "score": [1.5, np.nan, 2.0]})
    assert values(from_python(frame, task="t")) == {"text": ["a", None, None], "score": [1.5, None, 2.0]}


def test_a_users_dataset_with_a_format_and_a_selection_is_taken_as_plain_values() -> None:
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 0]}).with_format("numpy")
    rows = from_python(data.select([2, 1]), task="t")
    assert values(rows) == {"text": ["c", "b"], "label": [0, 1]}
    assert type(rows["label"][0]) is int


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "the rows of task 'topic' are empty"),
        ([{}], "the rows of task 'topic' are empty"),
        (["text"], "are a list, expected a datasets.Dataset"),
        ("news.csv", "are a str, expected"),
        (datasets.DatasetDict(), "are a DatasetDict, expected a datasets.Dataset (of one split)"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns have the same name"),
        ([{"a": 1}, {"a": {("tuple",): 1}}], "not plain data"),
    ],
)
def test_other_python_values_are_refused(value: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        from_python(value, task="topic")
    assert message in str(caught.value)


def test_a_hosts_data_set_is_split_and_its_splits_are_kept() -> None:
    records = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(20)]
    whole = of_host("topic", records, [TEXT, LABEL], seed=0, labels_from="label")
    assert {name: len(rows) for name, rows in whole.items()} == {"train": 16, "dev": 2, "test": 2}
    data = datasets.DatasetDict(
        {
            "validation": datasets.Dataset.from_list(records[:3]),
            "train": datasets.Dataset.from_list(records[3:]),
        }
    )
    parts = of_host("topic", data, [TEXT, LABEL], seed=0, labels_from="label")
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 17, "dev": 3}


@pytest.mark.parametrize("names", [[], ["dev"], ["train", "tset"], ["train", "dev", "validation"]])
def test_a_host_must_name_the_splits_as_they_are(names: list[str]) -> None:
    with pytest.raises(DataError, match="expected 'train', and 'dev' and 'test' beside it"):
        of_host("topic", {name: [{"text": "a"}] for name in names}, [TEXT], seed=0, labels_from=None)


def test_a_hosts_bad_row_is_named_with_its_split() -> None:
    value = {"train": [{"text": "a"}], "dev": [{"text": "b"}, {"text": " "}]}
    with pytest.raises(DataError, match=r"^task 'topic' \(dev\): row 2 of task 'topic': column 'text': found ' '"):
        of_host("topic", value, [TEXT], seed=0, labels_from=None)


def topics(count: int) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerows([("text", "label"), *((f"text {i}", "ab"[i % 2]) for i in range(count))])
    return buffer.getvalue()


def test_one_file_is_split_and_every_row_keeps_its_place(write: Write) -> None:
    data = schema.Data(files=(write("news.csv", topics(40)),))
    parts = load("topic", data, [TEXT, LABEL], seed=0, labels_from="label")
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 32, "dev": 4, "test": 4}
    assert all(sorted(set(rows["label"])) == ["a", "b"] for rows in parts.values())
    for rows in parts.values():
        for i, text in enumerate(rows["text"]):
            assert rows.where(i) == f"news.csv, row {int(text.split()[1]) + 1}"


def test_a_split_without_share_or_file_is_absent(write: Write) -> None:
    path = write("news.csv", topics(10))
    whole = schema.Data(files=(path,), split=schema.Split(dev=0, test=0))
    assert list(load("topic", whole, [TEXT], seed=0, labels_from=None)) == ["train"]
    given_files = schema.Data(train=(path,), test=(path,))
    assert list(load("topic", given_files, [TEXT, LABEL], seed=0, labels_from="label")) == ["train", "test"]


def test_max_rows_draws_from_train_alone_and_keeps_each_class(write: Write) -> None:
    path = write("news.csv", topics(40))
    for data in (schema.Data(files=(path,), max_rows=5), schema.Data(train=(path,), dev=(path,), max_rows=5)):
        parts = load("topic", data, [TEXT, LABEL], seed=3, labels_from="label")
        again = load("topic", data, [TEXT, LABEL], seed=3, labels_from="label")
        assert len(parts["train"]) == 5
        assert set(parts["train"]["label"]) == {"a", "b"}
        assert len(parts["dev"]) in (4, 40)
        assert parts["train"]["text"] == again["train"]["text"]


def test_bad_rows_and_columns_stop_the_load(write: Write) -> None:
    good, bad = write("good.csv", topics(10)), write("bad.csv", "text,label\na,\n")
    with pytest.raises(DataError, match=r"task 'topic' \(dev\): bad.csv, row 1: column 'label': found ''"):
        load("topic", schema.Data(train=(good,), dev=(bad,)), [TEXT, LABEL], seed=0, labels_from="label")
    by = schema.Data(files=(good,), split=schema.Split(by="labels"))
    with pytest.raises(DataError, match=r"no column 'labels' \('by' of the split\).*Did you mean 'label'"):
        load("topic", by, [TEXT, LABEL], seed=0, labels_from="label")
    few = schema.Data(files=(write("few.csv", topics(2)),))
    with pytest.raises(DataError, match="task 'topic': 2 rows are too few for a split into 3 parts"):
        load("topic", few, [TEXT, LABEL], seed=0, labels_from="label")


def test_lists_of_every_host_are_plain_lists(tmp_path: Path) -> None:
    words = [["a", "b"], ["c"]]
    frame = pd.DataFrame({"words": words})
    frame.to_parquet(tmp_path / "words.parquet")
    hosts = (
        frame,
        pd.read_parquet(tmp_path / "words.parquet"),  # cells are arrays
        datasets.Dataset.from_dict({"words": words}),
        [{"words": ("a", "b")}, {"words": np.array(["c"])}],
    )
    for value in hosts:
        rows = from_python(value, task="t")
        assert rows["words"] == words
        assert all(type(cell) is list for cell in rows["words"])


def queries(count: int) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "query": i // 4, "site": i // 8} for i in range(count)]


@pytest.mark.parametrize("missing", ["", " ", "nan", "<NA>", "None", "\\N"])
def test_a_split_by_a_column_with_nothing_in_some_rows_is_refused(missing: str, write: Write) -> None:
    lines = [f"text {i},{missing if i % 5 == 3 else i}" for i in range(30)]
    path = write("a.csv", "\n".join(["text,user", *lines]))
    by = schema.Data(files=(path,), split=schema.Split(by="user"))
    with pytest.raises(
        DataError, match=r"a.csv, row 4: column 'user' of 'by': found .* \(and 5 more rows\), from which"
    ):
        load("topic", by, [TEXT], seed=0, labels_from=None)


@pytest.mark.parametrize("name", ["NA", "Null", "none"])
def test_groups_may_have_names_that_look_like_nothing(name: str, write: Write) -> None:
    path = write("a.csv", "\n".join(["text,user", *(f"text {i},{name if i % 5 == 3 else i}" for i in range(30))]))
    parts = load("topic", schema.Data(files=(path,), split=schema.Split(by="user")), [TEXT], seed=0, labels_from=None)
    assert sum(map(len, parts.values())) == 30


def test_a_group_is_kept_in_one_split_and_by_max_rows(write: Write) -> None:
    path = write("q.csv", "\n".join(["text,query", *(f"{row['text']},{row['query']}" for row in queries(80))]))
    for data, count in ((schema.Data(files=(path,)), 64), (schema.Data(files=(path,), max_rows=10), 8)):
        parts = load("rank", data, [TEXT], seed=0, labels_from=None, group="query")
        assert {name: len(rows) for name, rows in parts.items()} == {"train": count, "dev": 8, "test": 8}
        homes = [set(rows["query"]) for rows in parts.values()]
        assert sum(map(len, homes)) == len(set().union(*homes))
        assert all(rows["query"].count(query) == 4 for rows in parts.values() for query in set(rows["query"]))
    small = load("rank", schema.Data(train=(path,), max_rows=2), [TEXT], seed=0, labels_from=None, group="query")
    assert len(small["train"]) == 4


def test_a_hosts_groups_are_kept_together_and_must_have_their_column() -> None:
    parts = of_host("rank", queries(80), [TEXT], seed=0, labels_from=None, group="query")
    homes = [set(rows["query"]) for rows in parts.values()]
    assert sum(map(len, homes)) == 20
    with pytest.raises(DataError, match=r"no column 'qury' \(its equal values belong together\).*Did you mean 'query'"):
        of_host("rank", queries(80), [TEXT], seed=0, labels_from=None, group="qury")


def test_a_split_by_a_larger_group_is_taken_and_one_that_tears_groups_apart_is_refused(write: Write) -> None:
    rows = [",".join(map(str, row.values())) for row in queries(80)]
    path = write("q.csv", "\n".join(["text,query,site", *rows]))
    by = {name: schema.Data(files=(path,), split=schema.Split(by=name)) for name in ("site", "text")}
    parts = load("rank", by["site"], [TEXT], seed=0, labels_from=None, group="query")
    assert sum(len(set(rows["site"])) for rows in parts.values()) == 10
    with pytest.raises(
        DataError, match=r"q.csv, row \d+: the rows with 'query' '\d+' belong together, but the split by"
    ):
        load("rank", by["text"], [TEXT], seed=0, labels_from=None, group="query")


def test_a_label_that_is_also_read_as_the_text_is_refused() -> None:
    columns = [Column("label", "text"), Column("label", "label", target=True)]
    with pytest.raises(DataError, match="column 'label' is both what is read and what is predicted"):
        of_host("t", [{"label": "a"}] * 9, columns, seed=0, labels_from=None)


def test_a_json_object_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "label": "x", "label": "y"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: .*the key 'label' twice"):
        files.read([str(tmp_path / "a.jsonl")], None, "line", task="t")
