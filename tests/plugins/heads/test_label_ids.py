from __future__ import annotations

import random
from itertools import permutations

import pytest
from pydantic import ValidationError

from hft_core.head import RowError
from hft_plugins.heads.classification import Options
from hft_plugins.heads.parts.label_ids import first_rows, in_order, refuse_alike


@pytest.mark.parametrize(
    ("labels", "ordered"),
    [
        (["1", "2", "3", "nan", "10", "5"], ["1", "2", "3", "5", "10", "nan"]),
        (["NaN", "-nan", "nan", "0"], ["0", "-nan", "NaN", "nan"]),
        (["1e400", "inf", "-inf", "7"], ["-inf", "7", "1e400", "inf"]),
        (["1", "1.0", "01", "+1", "b"], ["+1", "01", "1", "1.0", "b"]),
        (["\u0663", "2", "4", "\uff11"], ["\uff11", "2", "\u0663", "4"]),
        (["None", "NULL", "true", "2"], ["2", "NULL", "None", "true"]),
    ],
)
def test_the_order_of_labels_does_not_depend_on_the_order_in_which_they_are_met(
    labels: list[str], ordered: list[str]
) -> None:
    assert all(in_order(each) == ordered for each in permutations(labels))


def test_many_labels_have_one_order() -> None:
    labels = [*map(str, range(300)), *(f"c{i}" for i in range(300)), "nan", "NaN", "inf", "1e5", "x" * 10_000]
    expected = in_order(labels)
    for seed in range(5):
        assert in_order(random.Random(seed).sample(labels, len(labels))) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("yes", "yes\u200b"),
        ("no", "\ufeffno"),
        ("caf\u00e9", "cafe\u0301"),
        ("1", "\uff11"),
        ("a b", "a\u00a0b"),
        ("a b", "a  b"),
        ("co\u00adop", "coop"),
        ("\u2764", "\u2764\ufe0f"),
        ("1", "1.0"),
        ("true", "True"),
    ],
)
def test_labels_that_look_alike_are_refused_at_the_row_of_the_second_unless_both_are_named(
    one: str, other: str
) -> None:
    found = first_rows([["x"], [one], [one, other]])
    with pytest.raises(RowError, match="looks like the label") as error:
        refuse_alike(found, "label")
    assert error.value.row == 2
    assert str(error.value).isascii()
    refuse_alike(found, "label", named=(other, one))


@pytest.mark.parametrize("labels", [["yes", "Yes"], ["1", "1.5", "1e0"], ["3.1", "3.10"], ["a", "b"], ["01", "1"]])
def test_labels_that_can_be_told_apart_are_classes_of_their_own(labels: list[str]) -> None:
    refuse_alike(first_rows([labels]), "label")


def test_a_label_without_a_visible_character_is_refused() -> None:
    with pytest.raises(RowError, match=r"column 'label' holds the label '\\u200b', which has no visible character"):
        refuse_alike({"\u200b": 4}, "label")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b", "a"), r"the name 'a' is given twice \(names 1 and 3\)"),
        (("a", " a "), r"the name 'a' is given twice"),
        (("a", " "), "name 2 is blank"),
    ],
)
def test_names_of_labels_are_distinct_and_not_blank(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options(labels=names)
