from __future__ import annotations

import pytest

from hft_plugins.heads.parts.label_oddities import joined, oddities, own_labels, slips


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["Yes", "no", "yes"], "'Yes' and 'yes' differ only in upper and lower case"),
        (["c\u0430t", "dog"], "mix the letters of two alphabets"),
        (["nan", "None", "good"], "'nan', 'None' are what programs write for a missing value"),
        (["\u041c\u043e\u0441\u043a\u0432\u0430", "Rome"], ""),
        (["-1", "0", "1"], ""),
        (["not-spam", "not_spam", "spam"], "'not-spam' and 'not_spam' differ only in hyphens, underscores and blanks"),
        (["1", "01", "2"], "'1' and '01' are equal numbers"),
        (["1e3", "5", "1000"], "'1e3' and '1000' are equal numbers"),
        (["no", "0", "yes"], "'no', '0', 'yes' say yes or no in several ways"),
        (["t", "u", "v", "y"], ""),
        (["0", "1"], ""),
        (["9007199254740992", "9007199254740993"], ""),
        (["sport.", "sport", "money"], "'sport.' and 'sport' differ only in marks at their ends or in HTML"),
        (["R&amp;D", "R&D"], "'R&amp;D' and 'R&D' differ only in marks"),
        ([".", ",", "!"], ""),
        (["#N/A", "a"], "'#N/A' are what programs write for a missing value"),
        (["'sport'", "'money'"], "are in quotes, which are part of their names here"),
        (["b'sport'", "money"], "\"b'sport'\" are in quotes"),
        (['="sport"', "money"], "are in quotes"),
        (["it's", "o'clock"], ""),
        (["yes\u200b", "no"], r"'yes\u200b' hold invisible characters"),
        (["a:0.9", "b:0.1", "a:0.2"], "'a:0.9', 'b:0.1', 'a:0.2' end in a number as scores do"),
        (["v=1.5", "w=2.5"], ""),
    ],
)
def test_odd_labels_are_used_and_told_of(labels: list[str], said: str) -> None:
    found = oddities(labels, "label")
    assert len(found) == bool(said)
    assert said in "".join(found)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["sport", "money", "sport/money"], "'sport/money' are other labels joined by '/'"),
        (["sport", "money", "money; sport"], "joined by ';'"),
        (["sport", "sport/money"], ""),
        (["n/a", "a"], ""),
        (["a;b", "b;c", "c;a"], "'a;b', 'b;c', 'c;a' are other labels joined by ';'"),
        (["sport", "money", "sport money"], "'sport money' are other labels joined by ' '"),
        (["体育", "体育、财经", "财经"], "'体育、财经' are other labels joined by '、'"),
        (["good food", "good service", "bad food", "bad service"], ""),
        (["a/b", "b/c", "c/a"], ""),
        (["real estate", "real", "money"], ""),
    ],
)
def test_labels_made_of_other_labels_are_told_of(labels: list[str], said: str) -> None:
    found = joined(labels)
    assert bool(found) == bool(said)
    assert said in found


def test_labels_of_one_row_each_are_told_of() -> None:
    names = [str(i) for i in range(40)]
    assert own_labels(names, 40).startswith("40 rows have 40 labels, most of them in one row only")
    assert own_labels(names, 100) == own_labels(names[:5], 5) == ""


@pytest.mark.parametrize(
    ("label", "other", "slip"),
    [
        ("sprot", "sport", True),
        ("spor", "sport", True),
        ("sportt", "sport", True),
        ("spart", "sport", True),
        ("sport", "sport", False),
        ("males", "female", False),
        ("type1", "type2", False),
        ("pos", "pod", False),
    ],
)
def test_a_rare_label_that_is_a_frequent_one_but_for_a_letter_is_told_of(label: str, other: str, slip: bool) -> None:
    found = [*slips({"money": 30, other: 20, label: 1})]
    assert [f"{label!r} (1 row) and {other!r} differ in a letter" in line for line in found] == [True] * slip
    assert [*slips({other: 20, label: 3})] == []
