"""CLUENER's spans to a tag for each character."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hft_chinese import clue
from hft_chinese.spans import Spans
from hft_core.errors import DataError

Row = dict[str, Any]

TEXT = "远山公司经理张明到了青石路"
LABEL = {"company": {"远山公司": [[0, 3]]}, "position": {"经理": [[4, 5]]}, "name": {"张明": [[6, 7]]}}


def tags(text: str, label: Any, **options: Any) -> list[tuple[str, str]]:
    form = Spans(**options)
    row = form.labelled({"text": text, "label": label}, form.known(Path()))
    assert row is not None
    return list(zip(row["words"], row["tags"], strict=True))


def test_each_character_has_the_tag_of_its_span() -> None:
    found = tags(TEXT, LABEL)
    assert "".join(character for character, _ in found) == TEXT
    assert [tag for _, tag in found] == [
        *("B-company", "I-company", "I-company", "I-company"),
        *("B-position", "I-position"),
        *("B-name", "I-name"),
        *["O"] * 5,
    ]


def test_spans_that_touch_are_two_and_one_of_a_single_character_begins() -> None:
    assert [tag for _, tag in tags("张明李文丁", {"name": {"张明": [[0, 1]], "李文": [[2, 3]], "丁": [[4, 4]]}})] == [
        "B-name",
        "I-name",
        "B-name",
        "I-name",
        "B-name",
    ]


def test_one_mention_may_stand_in_several_places() -> None:
    found = [tag for _, tag in tags("张明和张明", {"name": {"张明": [[0, 1], [3, 4]]}})]
    assert found == ["B-name", "I-name", "O", "B-name", "I-name"]


def test_a_row_without_entities_has_only_o() -> None:
    assert {tag for _, tag in tags(TEXT, {})} == {"O"}


def test_blanks_are_no_words_and_do_not_move_the_spans() -> None:
    assert tags("去 New York 玩", {"address": {"New York": [[2, 9]]}}) == [
        ("去", "O"),
        ("N", "B-address"),
        *((character, "I-address") for character in "ewYork"),
        ("玩", "O"),
    ]
    assert tags(" 　张明", {"name": {"　张明": [[1, 3]]}}) == [("张", "B-name"), ("明", "I-name")]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "'label' is nothing"),
        ({"nmae": {"张明": [[6, 7]]}}, "the type 'nmae' is unknown. Did you mean 'name'?"),
        ({"name": ["张明"]}, "'name' holds"),
        ({"name": {"张明": [[6]]}}, r"'张明' (name) is at [6], expected [first character, last character]"),
        ({"name": {"张明": [[6, 8]]}}, "'张明' (name) is said to be at [6, 8], where '张明到' stands"),
        ({"name": {"张明": [[-7, -6]]}}, "is said to be at [-7, -6], where '' stands"),
        ({"name": {"张明": [[60, 61]]}}, "is said to be at [60, 61], where '' stands"),
        (
            {**LABEL, "organization": {"公司经理": [[2, 5]]}},
            "'远山公司' (company, [0, 3]) and '公司经理' (organization, [2, 5]) overlap",
        ),
        ({**LABEL, "game": {"张明": [[6, 7]]}}, "'张明' (game, [6, 7]) and '张明' (name, [6, 7]) overlap"),
    ],
)
def test_a_faulty_label_is_told_in_one_line_with_its_file_and_line(
    label: Any, message: str, folder: Callable[..., Path]
) -> None:
    good: Row = {"text": TEXT, "label": LABEL}
    bad: Row = {"text": TEXT} if label is None else {"text": TEXT, "label": label}
    with pytest.raises(DataError) as caught:
        clue.read("cluener", folder(train=[good, good, bad], dev=[good]))
    assert "/train.json, line 3: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_blank_text_is_told(folder: Callable[..., Path]) -> None:
    good: Row = {"text": TEXT, "label": LABEL}
    with pytest.raises(DataError, match=r"dev\.json, line 1: 'text' is '  ', expected a text"):
        clue.read("cluener", folder(train=[good], dev=[{"text": "  ", "label": {}}]))


def test_of_spans_that_overlap_the_longest_can_be_kept(folder: Callable[..., Path]) -> None:
    label = {"company": {"远山": [[0, 1]], "远山公司": [[0, 3]]}, "position": {"公司经理": [[2, 5]]}}
    row: Row = {"text": TEXT, "label": label}
    (read,) = clue.read(Spans(overlaps="longest"), folder(train=[row], dev=[row]))["train"]
    assert read["tags"] == ["B-company", "I-company", "I-company", "I-company", *["O"] * 9]


def test_unlabelled_rows_have_words_and_no_tags(folder: Callable[..., Path]) -> None:
    place = folder(test=[{"id": 0, "text": "张 明"}])
    assert clue.read_unlabelled("cluener", place / "test.json") == [{"id": 0, "text": "张 明", "words": ["张", "明"]}]
