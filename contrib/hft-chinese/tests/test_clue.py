"""CLUE's files to rows, on made-up ones of the same shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hft_chinese import clue, labels
from hft_chinese.classes import Classes
from hft_core.data import loading
from hft_core.errors import DataError
from hft_core.head import Column

Row = dict[str, Any]

PAIR = {"sentence1": "两个孩子在河边钓鱼", "sentence2": "有人在钓鱼"}
GOOD: dict[str, Row] = {
    "tnews": {"label": "103", "label_desc": "news_sports", "sentence": "门将扑出点球", "keywords": "门将"},
    "iflytek": {"label": "7", "label_des": "打车", "sentence": "随时随地叫一辆车"},
    "afqmc": {**PAIR, "label": "1"},
    "cmnli": {**PAIR, "label": "entailment"},
    "ocnli": {**PAIR, "label": "entailment", "level": "easy", "genre": "lit", "prem_id": "lit_1", "id": 0},
    "csl": {"id": 1, "abst": "本文提出一种分词方法。", "keyword": ["分词", "词典"], "label": "1"},
}


def test_the_labels_of_tnews_are_fifteen_with_a_chinese_name_each() -> None:
    assert len(labels.TNEWS) == 15
    assert labels.TNEWS.keys() == labels.TNEWS_CHINESE.keys()
    assert len(set(labels.TNEWS_CHINESE.values())) == 15
    assert all(name.startswith("news_") for name in labels.TNEWS.values())


@pytest.mark.parametrize(
    ("task", "gained"),
    [
        ("tnews", {"label": "103", "label_desc": "news_sports", "label_zh": "体育"}),
        ("iflytek", {"label": "7", "label_desc": "打车", "label_zh": "打车"}),
        ("afqmc", {"label": "1", "label_zh": "相同"}),
        ("cmnli", {"label": "entailment", "label_zh": "蕴含"}),
        ("ocnli", {"label": "entailment", "label_zh": "蕴含", "genre": "lit"}),
        ("csl", {"label": "1", "label_zh": "全对", "keyword": "分词 词典"}),
    ],
)
def test_a_row_keeps_its_fields_and_gains_the_names_of_its_label(
    task: str, gained: Row, folder: Callable[..., Path]
) -> None:
    rows = clue.read(task, folder(train=[GOOD[task]], dev=[GOOD[task]]))
    assert set(rows) == {"train", "dev"}
    (row,) = rows["train"]
    assert gained.items() <= row.items()
    assert {name: row[name] for name in GOOD[task] if name != "keyword"} == {
        name: value for name, value in GOOD[task].items() if name != "keyword"
    }


def test_labels_json_says_what_the_labels_are_called(folder: Callable[..., Path]) -> None:
    bare = {"label": 7, "sentence": "随时随地叫一辆车"}
    place = folder(train=[bare], dev=[bare], labels=[{"label": "7", "label_des": "打车"}])
    (row,) = clue.read("iflytek", place)["dev"]
    assert (row["label"], row["label_zh"]) == ("7", "打车")


def test_rows_without_consensus_are_left_out(folder: Callable[..., Path]) -> None:
    torn = {**PAIR, "label": "-"}
    for task in ("cmnli", "ocnli"):
        place = folder(task, train=[torn, GOOD[task], torn], dev=[GOOD[task]])
        assert [row["label"] for row in clue.read(task, place)["train"]] == ["entailment"]


def test_ocnli_is_read_from_its_largest_training_file(folder: Callable[..., Path]) -> None:
    row = GOOD["ocnli"]
    place = folder(**{"train.50k": [row, row], "train.3k": [row], "dev": [row]})
    assert len(clue.read("ocnli", place)["train"]) == 2


def test_test_rows_are_read_where_they_have_labels(folder: Callable[..., Path]) -> None:
    hidden = {"id": 0, **PAIR}
    good = GOOD["afqmc"]
    without = folder("without", train=[good], dev=[good], test=[hidden])
    assert set(clue.read("afqmc", without)) == {"train", "dev"}
    assert clue.read_unlabelled("afqmc", without / "test.json") == [hidden]
    assert set(clue.read("afqmc", folder("with", train=[good], dev=[good], test=[good]))) == {"train", "dev", "test"}
    mixed = folder("mixed", train=[good], dev=[good], test=[good, hidden])
    with pytest.raises(DataError, match=r"test\.json, line 2: 'label' is nothing"):
        clue.read("afqmc", mixed)


@pytest.mark.parametrize(
    ("task", "bad", "message"),
    [
        ("tnews", {"sentence": None}, "'sentence' is nothing .*, expected a text that is not blank"),
        ("tnews", {"sentence": " 　"}, "'sentence' is .*, expected a text that is not blank"),
        ("tnews", {"label": "105"}, "'label' is '105', expected one of the 15 labels of the task. Did you mean '1"),
        ("tnews", {"label": None}, "'label' is nothing"),
        ("iflytek", {"label_des": None}, "nothing says what the label '7' is called"),
        ("afqmc", {"sentence2": 3}, "'sentence2' is 3, expected a text"),
        ("afqmc", {"label": 2}, "'label' is '2', expected one of the 2 labels"),
        ("cmnli", {"label": "entails"}, ".*Did you mean 'entailment'"),
        ("csl", {"keyword": []}, r"'keyword' is \[\], expected a text"),
        ("csl", {"keyword": ["分词", 3]}, "'keyword' is .*, expected a text"),
    ],
)
def test_a_faulty_row_is_told_in_one_line_with_its_file_and_line(
    task: str, bad: Row, message: str, folder: Callable[..., Path]
) -> None:
    faulty = {name: value for name, value in {**GOOD[task], **bad}.items() if value is not None}
    place = folder(train=[GOOD[task], faulty], dev=[GOOD[task]])
    with pytest.raises(DataError, match=rf"^\S+/train\.json, line 2: {message}") as caught:
        clue.read(task, place)
    assert "\n" not in str(caught.value)


def test_a_faulty_labels_json_is_told_with_its_line(folder: Callable[..., Path]) -> None:
    good = GOOD["tnews"]
    place = folder(train=[good], dev=[good], labels=[{"label": "103", "label_desc": "news_sports"}, {"label": "104"}])
    with pytest.raises(DataError, match=r"labels\.json, line 2: found the label '104' and its description nothing"):
        clue.read("tnews", place)


def test_a_file_that_is_no_json_lines_is_told_with_its_line(folder: Callable[..., Path]) -> None:
    place = folder(train=[GOOD["afqmc"]], dev=[GOOD["afqmc"]])
    (place / "dev.json").write_text('{"label": "1"}\n{"label": \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"dev\.json, line 2: not valid JSON"):
        clue.read("afqmc", place)


def test_what_is_not_there_is_told_with_what_is_expected(folder: Callable[..., Path], tmp_path: Path) -> None:
    place = folder(train=[GOOD["afqmc"]])
    (place / "dev.jsonl").touch()
    with pytest.raises(DataError, match=r"no dev\.json in it, expected train\.json and dev\.json.* 'dev\.jsonl'\?"):
        clue.read("afqmc", place)
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        clue.read("afqmc", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"unknown CLUE task 'tnew'. Did you mean 'tnews'\?"):
        clue.read("tnew", tmp_path)


def test_a_format_of_ones_own_is_read_in_the_same_way(folder: Callable[..., Path]) -> None:
    mine = Classes(("title", "body"), {"a": "甲", "b": "乙"})
    row = {"title": "标题", "body": "正文", "label": "a"}
    (read, _) = clue.read(mine, folder(train=[row, {**row, "label": "b"}], dev=[row]))["train"]
    assert read["label_zh"] == "甲"


def test_the_rows_are_what_the_core_takes(folder: Callable[..., Path], made: Callable[..., list[Row]]) -> None:
    rows = clue.read("tnews", folder(train=made("tnews", 9), dev=made("tnews", 3, 1)))
    columns = [Column("sentence", "text"), Column("label_zh", "label", target=True)]
    parts = loading.of_host("topic", rows, columns, seed=0, labels_from="label_zh")
    assert {split: len(part) for split, part in parts.items()} == {"train": 9, "dev": 3}
