from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from hft_core.data import examples, loading, row_notes
from hft_core.errors import DataError
from hft_core.head import Column, Draw, Encoded, Head, Targets
from hft_core.testing.toy_tokenizers import word_pieces


class Chunks(Head):
    """A text is its letters' numbers in chunks of `max_length`; the target is the chunk's first letter."""

    main_metric = "loss"

    def columns(self) -> Sequence[Column]:
        return [Column("text", "text")]

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> Encoded:
        made = Encoded([], [], {"kind": []}, {"first": []})
        for row, text in enumerate(rows["text"]):
            for start in range(0, len(text), max_length):
                chunk = [ord(letter) for letter in text[start : start + max_length]]
                made.sequences.append(chunk)
                made.rows.append(row)
                made.extra["kind"].append([row % 2] * len(chunk))
                made.targets["first"].append(chunk[0])
        return made

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        numbers = [int(draw.generator(example).integers(1000)) for example in examples]
        tensors = {"first": torch.tensor(targets["first"]), "random": torch.tensor(numbers)}
        return sequences, Targets(len(sequences), tensors)

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        return targets["first"]

    def attach(self, backbone: Any) -> None:
        raise AssertionError("no model is made here")

    def loss(self, features: Any, targets: Targets) -> Any:
        raise AssertionError("nothing is learned here")


def encoded(texts: Sequence[str], max_length: int = 4) -> examples.Examples:
    rows = loading.from_python([{"text": text} for text in texts], task="t")
    tokenizer: Any = None  # `Chunks` needs none
    return examples.encode(rows, Chunks("t"), tokenizer, max_length)


def test_examples_keep_the_order_and_the_numbers_of_their_rows() -> None:
    found = encoded(["abcdef", "gh", "ijklmnopq"])
    assert found.rows.tolist() == [0, 0, 1, 2, 2, 2]
    assert found.lengths.tolist() == [4, 2, 2, 4, 4, 1]
    assert len(found) == 6


def test_rows_are_numbered_on_where_they_are_encoded_in_more_than_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoded(["abcdef", "gh", "ijklmnopq", "r", "stuvw"])
    monkeypatch.setattr(examples, "ENCODE_ROWS", 2)
    divided = encoded(["abcdef", "gh", "ijklmnopq", "r", "stuvw"])
    assert divided.rows.tolist() == whole.rows.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4]
    assert divided.references(range(9), Chunks("t")) == whole.references(range(9), Chunks("t"))


def test_drawn_examples_come_in_the_order_asked_for_with_their_inputs_and_targets() -> None:
    drawn = encoded(["abcdef", "gh"]).draw([2, 0], Chunks("t"), Draw(seed=0, epoch=1))
    assert drawn.sequences == [[ord("g"), ord("h")], [ord("a"), ord("b"), ord("c"), ord("d")]]
    assert drawn.extra == {"kind": [[1, 1], [0, 0, 0, 0]]}
    assert drawn.targets.tensors["first"].tolist() == [ord("g"), ord("a")]


def test_random_choices_depend_on_seed_epoch_and_example_and_on_nothing_else() -> None:
    found, head = encoded(["abcdef", "gh", "ij"]), Chunks("t")

    def numbers(ids: Sequence[int], seed: int, epoch: int) -> list[int]:
        return found.draw(ids, head, Draw(seed, epoch)).targets.tensors["random"].tolist()  # type: ignore[no-any-return]

    straight = numbers([0, 1, 2, 3], 0, 0)
    assert numbers([3, 1], 0, 0) == [straight[3], straight[1]]
    assert numbers([0, 1, 2, 3], 0, 1) != straight
    assert numbers([0, 1, 2, 3], 1, 0) != straight
    assert numbers([0, 1, 2, 3], 0, -1) != straight


class Units(Chunks):
    """The chunks of a text, and of all texts with the same last letter, belong together."""

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> Encoded:
        made = super().encode(rows, tokenizer, max_length)
        made.units = [ord(rows["text"][row][-1]) for row in made.rows]
        return made

    @property
    def group_column(self) -> str:
        return "last"


def test_the_chunks_of_a_unit_stay_together_and_units_are_numbered_in_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examples, "ENCODE_ROWS", 1)
    texts = ["abcdef", "ghz", "ijf", "k", "lmnopqz"]
    rows = loading.from_python([{"text": text, "last": text[-1]} for text in texts], task="t")
    tokenizer: Any = None
    found = examples.encode(rows, Units("t"), tokenizer, 4)
    assert found.rows.tolist() == [0, 0, 2, 1, 4, 4, 3]
    assert found.sizes.tolist() == [3, 3, 1]
    assert found.lengths.tolist() == [4, 4, 1]
    assert found.of_units(np.array([2, 0])).tolist() == [6, 0, 1, 2]
    some = found.of(np.array([1, 2]))
    assert some.sizes.tolist() == [3, 1]
    assert some.rows.tolist() == [1, 4, 4, 3]


class Noting(Chunks):
    """Notes short texts."""

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> Encoded:
        made = super().encode(rows, tokenizer, max_length)
        made.notes = {row: "it is short" for row, text in enumerate(rows["text"]) if len(text) < 3}
        return made


class Letters:
    """A tokenizer that knows lower-case letters alone."""

    all_special_ids = tuple(range(97))


def notes_of(texts: Sequence[str], head: Head) -> list[str]:
    rows = loading.from_python([{"text": text} for text in texts], task="t")
    tokenizer: Any = Letters()
    return row_notes.warnings("t", {"train": rows}, {"train": examples.encode(rows, head, tokenizer, 4).notes()})


def test_rows_that_a_head_notes_are_counted_and_the_first_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "ENCODE_ROWS", 2)
    assert notes_of(["abcdefghi", "abcd", "ab", "abcde", "c"], Noting("t")) == [
        "task 't': it is short (2 of 5 train rows; first: row 3 of task 't')"
    ]
    assert notes_of(["abcd"], Noting("t")) == []


def test_texts_of_which_the_tokenizer_knows_nothing_are_named() -> None:
    (warning,) = notes_of(["abcd", "ABCDEFGH", "ABCDefgh"], Chunks("t"))
    assert warning == f"task 't': {row_notes.NO_TOKEN} (1 of 3 train rows; first: row 2 of task 't')"
    with pytest.raises(DataError, match=r"^task 't' \(train\): row 1 of task 't': the tokenizer .*in every row"):
        notes_of(["ABC", "D"], Chunks("t"))


def test_texts_that_are_read_as_something_else_are_named() -> None:
    rows = [{"text": text} for text in ("the cat", "the [SEP] cat", "nan", "a dog [CLS]", "a [ SEP ]")]
    tokenizer = word_pieces(["the", "cat", "dog", "nan", "a"], model_max_length=64)
    made = examples.encode(loading.from_python(rows, task="t"), Texts("t"), tokenizer, 16).notes()
    found = {note.partition(",")[0]: rows for note, rows in made.items()}
    assert found == {
        "column 'text' holds '[SEP]' in its text": [1],
        "column 'text' is 'nan'": [2],
        "column 'text' holds '[CLS]' in its text": [3],
    }


def test_each_note_of_a_row_is_reported() -> None:
    texts = ["a [SEP] &amp; dog", "a cat", "a\x00 [SEP]"]
    rows = loading.from_python([{"text": text} for text in texts], task="t")
    tokenizer = word_pieces(["the", "cat", "dog", "nan", "a"], model_max_length=64)
    made = examples.encode(rows, NotingTexts("t"), tokenizer, 16).notes()
    assert {note.split()[3]: rows for note, rows in made.items()} == {
        "one": [0, 1, 2],
        "two": [0, 1, 2],
        "'[SEP]'": [0, 2],
        "HTML": [0],
        "a": [2],
    }


class Texts(Chunks):
    """A text is the tokenizer's tokens."""

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> Encoded:
        ids = tokenizer(list(rows["text"]))["input_ids"]
        return Encoded(ids, list(range(len(ids))))


class NotingTexts(Texts):
    """Notes two things of each text."""

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> Encoded:
        made = super().encode(rows, tokenizer, max_length)
        made.notes = dict.fromkeys(range(len(rows["text"])), "this is note one\nthis is note two")
        return made
