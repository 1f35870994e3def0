from __future__ import annotations

from typing import Any

import pytest

from hft_core.data.cells import as_label, as_list, as_number, group_key, problem
from hft_core.head import Column

WORDS = Column("words", "text", many=True, separator=" ")
LABELS = Column("labels", "label", target=True, many=True, separator=";")
SHARES = Column("shares", "number", target=True, many=True)
CHOICES = Column("choices", "text", many=True)
MESSAGES = Column("messages", "messages")
SHAREGPT = [{"from": "human", "value": "hi", "weight": 0}, {"from": "gpt", "value": "hello"}]


def test_labels_and_numbers_are_used_by_their_plain_value() -> None:
    assert [as_label(value) for value in (True, False, 3, " sport ", "3")] == ["true", "false", "3", "sport", "3"]
    assert [as_number(value) for value in (3, 2.5, " 3.5 ", "1e-3")] == [3.0, 2.5, 3.5, 0.001]


@pytest.mark.parametrize(
    ("value", "column", "values"),
    [
        (["a", "b"], WORDS, ["a", "b"]),
        ([], WORDS, []),
        (" a  b\tc ", WORDS, ["a", "b", "c"]),
        ('["a b", "c"]', WORDS, ["a b", "c"]),
        ("['a b', \"it's\"]", WORDS, ["a b", "it's"]),
        ("[sic] he said", WORDS, ["[sic]", "he", "said"]),
        ("[see below]", WORDS, ["[see", "below]"]),
        ("a; b c;d", LABELS, ["a", "b c", "d"]),
        ("a;;b", LABELS, ["a", "", "b"]),
        ("", LABELS, []),
        ("  ", LABELS, []),
        ("[]", LABELS, []),
        (3, LABELS, [3]),
        ("[0.25, 0.75]", SHARES, [0.25, 0.75]),
        (0.5, SHARES, [0.5]),
        ("0.5", SHARES, ["0.5"]),
        ("one choice; not two", CHOICES, ["one choice; not two"]),
        ('[{"role": "user", "content": "hi"}]', MESSAGES, [{"role": "user", "content": "hi"}]),
    ],
)
def test_a_cell_of_many_values_is_a_list_or_a_text_that_is_divided(value: Any, column: Column, values: Any) -> None:
    assert as_list(value, column) == values


@pytest.mark.parametrize(
    ("value", "column", "found"),
    [
        (
            None,
            WORDS,
            "found nothing (null, or no such key), expected a list of non-empty texts, or a text",
        ),
        ([], WORDS, "found an empty list, expected a list of non-empty texts"),
        ("", WORDS, "found an empty list"),
        ([], CHOICES, "found an empty list, expected a list of non-empty texts"),
        (["a", " "], WORDS, "item 2: found ' ', expected a non-empty text"),
        (["a", None], WORDS, "item 2: found nothing"),
        (["a", 3], WORDS, "item 2: found 3, expected a non-empty text"),
        (["a", "\ud800"], WORDS, "item 2: found '\\ud800'"),
        ({"a": 1}, WORDS, "item 1: found {'a': 1}"),
        (None, LABELS, "expected a list of labels, or a text divided at ';'"),
        ("a;;b", LABELS, "item 2: found '', expected a label"),
        ([1.5], LABELS, "item 1: found 1.5, expected a label"),
        ([["a"]], LABELS, "item 1: found ['a'], expected a label"),
        ([0.5, "x"], SHARES, "item 2: found 'x', expected a finite number"),
        ([float("nan")], SHARES, "item 1: found nan"),
        (None, MESSAGES, "found nothing (null, or no such key), expected a list of messages {role, content}"),
        ([], MESSAGES, "found an empty list"),
        ("hello", MESSAGES, "message 1: found 'hello', expected {role, content}"),
        (
            [{"role": "bot", "content": "a"}],
            MESSAGES,
            "message 1: found the role 'bot', expected one of system",
        ),
        ([{"content": "a"}], MESSAGES, "message 1: found the role nothing"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}],
            MESSAGES,
            "message 2: found the content ' ', expected a non-empty text",
        ),
        ([{"role": "user"}], MESSAGES, "found the content nothing"),
        (
            [{"role": "assistant", "content": "a", "function_call": {"name": "f", "arguments": "{}"}}],
            MESSAGES,
            "message 1: found a function_call, the older form of OpenAI; expected tool_calls",
        ),
    ],
)
def test_a_bad_list_says_which_item_what_was_found_and_what_was_expected(
    value: Any, column: Column, found: str
) -> None:
    said = problem(value, column)
    assert said.startswith(found) or found in said
    assert "\n" not in said
    assert len(said) < 160


def test_good_lists_have_no_problem() -> None:
    conversation = [{"role": role, "content": "a"} for role in ("system", "user", "assistant", "tool")]
    for value, column in (
        (["a", "b"], WORDS),
        ("a b", WORDS),
        ([], LABELS),
        ("", LABELS),
        (["a", 1, True], LABELS),
        ([], SHARES),
        (["0.5", 1], SHARES),
        (conversation, MESSAGES),
    ):
        assert problem(value, column) == ""


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("['sport' 'money']", "a numpy array"),
        ("['sport'\n 'money']", "a numpy array"),
        ("[0 1 0]", "a numpy array"),
        ("[ 0  1]", "a numpy array"),
        ("[0 1 ... 3]", "shortened"),
        ("['a' 'b' ... 'z']", "a numpy array: no comma"),
        ("['a', ..., 'z']", "shortened"),
        ("array(['a', 'b'], dtype='<U1')", "array(…)"),
        ("array(['a', 'b'],\n      dtype=object)", "array(…)"),
        ("np.array([0, 1])", "np.array(…)"),
        ("tensor([0, 1])", "tensor(…)"),
        ("Index(['a', 'b'], dtype='object')", "Index(…)"),
        ('c("a", "b")', "c(…)"),
        ("c(1,2)", "c(…)"),
        ("[sport, money]", "a list without quotes"),
        ("[sport]", "a list without quotes"),
        ("[[sport], [money]]", "a list without quotes"),
        ("['sport', 'mon\"]", "a list"),
        ("{sport,money}", "PostgreSQL"),
        ("{'sport', 'money'}", "a set"),
        ("('sport', 'money')", "a tuple"),
    ],
)
def test_a_list_as_other_programs_print_it_is_refused_with_what_it_looks_like(value: str, form: str) -> None:
    labels = Column("labels", "label", target=True, many=True, separator=",")
    found = problem(value, labels)
    assert form in found
    assert 'expected a list as JSON writes it: ["a", "b"]' in found


@pytest.mark.parametrize(
    ("value", "mark"),
    [("O, B-A, O", ","), ("O; O", ";"), ("a|\tb", "|"), ("NN , VB", ""), ("O,", ""), ("['O', 'B-A']", "")],
)
def test_tags_divided_at_a_mark_and_a_blank_are_refused(value: str, mark: str) -> None:
    found = problem(value, Column("tags", "label", target=True, many=True, separator=" "))
    assert (f"a list divided at {mark!r}, not at blanks" in found) == bool(mark)


@pytest.mark.parametrize(
    ("value", "column"),
    [
        ("['the' 'cat']", WORDS),
        ("{the,cat}", WORDS),
        ("('the', 'cat')", WORDS),
        ("['O' 'B-A']", Column("tags", "label", target=True, many=True, separator=" ")),
        ("[O, B-A]", Column("tags", "label", target=True, many=True, separator=" ")),
        ("['x'\n 'y']", CHOICES),
        ("[Detroit, MI]", CHOICES),
        ("[0.25 0.75]", SHARES),
    ],
)
def test_so_it_is_in_every_column_of_lists(value: str, column: Column) -> None:
    assert "looks like" in problem(value, column)


@pytest.mark.parametrize(
    ("value", "column"),
    [
        ("[CLS] the [SEP]", WORDS),
        ("[see below]", WORDS),
        ("[ ... ]", WORDS),
        ("[Laughter, applause]", WORDS),
        ("c ( x )", WORDS),
        ("f(x)", WORDS),
        ("{ a , b }", WORDS),
        ("( NN )", Column("tags", "label", target=True, many=True, separator=" ")),
        ("[ NN , ]", Column("tags", "label", target=True, many=True, separator=" ")),
        ("[LOC]; [PER]", LABELS),
        ("(a); (b)", LABELS),
        ("['a b', 'c']", LABELS),
        ("[0, 1]", LABELS),
        ("[laughter]", CHOICES),
        ("{x | x > 0}", CHOICES),
    ],
)
def test_brackets_of_words_and_names_make_no_list(value: str, column: Column) -> None:
    assert problem(value, column) == ""


@pytest.mark.parametrize("value", ["['a', 'b']", "['a' 'b']", "[0, 1, 0]", '["a"]', "array([1, 2])", "c('a')"])
def test_a_list_is_no_label(value: str) -> None:
    assert "which is a list; expected one label" in problem(value, Column("label", "label", target=True))


@pytest.mark.parametrize("value", ["[1]", "[UNK]", "{a,b}", "(a)", "[a, b]", "a, b", "None", "NULL", "x" * 5000])
def test_other_text_is_a_label(value: str) -> None:
    assert problem(value, Column("label", "label", target=True)) == ""


@pytest.mark.parametrize("value", ["sport\nmoney", "sport\tmoney", "sport\x00"])
def test_a_label_has_no_line_breaks_and_control_characters(value: str) -> None:
    assert "without line breaks" in problem(value, Column("label", "label", target=True))


@pytest.mark.parametrize("value", [1e39, "1e39", -1e300, 10**39])
def test_a_number_beyond_float32_is_named(value: object) -> None:
    found = problem(value, Column("score", "number", target=True))
    assert "expected a number that float32 can hold (at most 3.4e+38)" in found
    assert "item 2" in problem([0.5, value], SHARES)


def test_cells_of_one_group_are_compared_as_labels_and_whole_numbers_by_value() -> None:
    assert len({group_key(value) for value in (7, "7", " 7", 7.0, "7.0")}) == 1
    assert len({group_key(value) for value in (7, "07", "7.5", "seven", None, "None", [7], True)}) == 8
    assert len({group_key(2**53 + i) for i in range(10)}) == 10
    assert group_key(True) == group_key("true")


def test_messages_of_sharegpt_have_roles_and_contents() -> None:
    read = [{"role": "user", "content": "hi", "weight": 0}, {"role": "assistant", "content": "hello"}]
    assert as_list(SHAREGPT, MESSAGES) == as_list(read, MESSAGES) == read
    assert problem(SHAREGPT, MESSAGES) == ""
    assert "found the role 'narrator'" in problem([{"from": "narrator", "value": "hi"}], MESSAGES)
