"""The examples of a stream, by their numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from hft_core.data import streamed_examples
from hft_core.data.corpus import Corpus
from hft_core.data.streamed_examples import StreamedExamples, StreamPlace
from hft_core.errors import DataError, UsageError
from hft_core.head import Column, Draw, Encoded, Head, Targets
from hft_core.recipe.schema import Data

from .conftest import Write

EACH_PASS = 28
"""Chunks of all texts."""


class Chunks(Head):
    """A text is its letters' numbers in chunks of `max_length`; the target of each is a random number."""

    main_metric = "loss"

    def columns(self) -> Sequence[Column]:
        return [Column("text", "text")]

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> Encoded:
        made = Encoded([], [])
        for row, text in enumerate(rows["text"]):
            for start in range(0, len(text), max_length):
                made.sequences.append([ord(letter) for letter in text[start : start + max_length]])
                made.rows.append(row)
        return made

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        return sequences, Targets(len(sequences), {})

    def attach(self, backbone: Any) -> None:
        raise AssertionError("no model is made here")

    def loss(self, features: Any, targets: Targets) -> Any:
        raise AssertionError("nothing is learned here")


@pytest.fixture
def stream(write: Write, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes the stream of two files, in portions of two rows."""
    monkeypatch.setattr(streamed_examples, "PORTION_ROWS", 2)
    letters = "abcdefghijklm"
    for name, part in (("a.jsonl", letters[:6]), ("b.jsonl", letters[6:])):
        write(name, "".join(json.dumps({"text": letter * (1 + i)}) + "\n" for i, letter in enumerate(part)))

    def made(seed: int = 0) -> StreamedExamples:
        data = Data.model_validate({"train": "*.jsonl", "stream": True, "shuffle_buffer": 5})
        corpus = Corpus.open(data, [Column("text", "text")], task="lm")
        tokenizer: Any = None  # `Chunks` needs none
        return StreamedExamples(corpus, Chunks("lm"), tokenizer, 2, seed=(seed, 0))

    return made


def sequences(stream: StreamedExamples, edges: Sequence[int]) -> list[str]:
    found = []
    for start, stop in pairwise(edges):
        window, units = stream.window(start, stop), np.arange(start, stop)
        drawn = window.draw(window.of_units(units).tolist(), Chunks("lm"), Draw(0, 0))
        assert window.lengths_of(units).tolist() == [len(ids) for ids in drawn.sequences]
        found += ["".join(map(chr, ids)) for ids in drawn.sequences]
    return found


def test_each_pass_has_every_chunk_once_however_it_is_divided_into_steps(stream: Any) -> None:
    whole = sequences(stream(), [0, 2 * EACH_PASS])
    assert sorted(whole[:EACH_PASS]) == sorted(whole[EACH_PASS:])
    assert whole[:EACH_PASS] != whole[EACH_PASS:]
    assert len("".join(whole)) == 2 * (21 + 28)
    assert sequences(stream(), [0, 1, 4, 4 + 17, 40, 2 * EACH_PASS]) == whole
    assert sequences(stream(seed=1), [0, 2 * EACH_PASS]) != whole


def test_it_goes_on_from_the_place_of_any_example(stream: Any) -> None:
    whole, first = sequences(stream(), [0, 60]), stream()
    for start, stop in pairwise(range(0, 50, 3)):
        sequences(first, [start, stop])
        resumed = stream()
        resumed.go_to(StreamPlace.from_json(json.loads(json.dumps(first.place(stop).to_json()))))
        assert sequences(resumed, [stop, stop + 7]) == whole[stop : stop + 7]


def test_examples_of_a_step_may_be_asked_for_again_and_earlier_ones_too(stream: Any) -> None:
    one, whole = stream(), sequences(stream(), [0, 60])
    assert sequences(one, [20, 30]) == sequences(one, [20, 30]) == whole[20:30]
    assert sequences(one, [0, 10]) == whole[:10]


def test_a_row_that_cannot_be_used_does_not_lose_the_place(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, one = sequences(stream(), [0, 20]), stream()
    edge = next(portion.end for portion in one._portions(StreamPlace()) if portion.end > 10)
    sequences(one, [0, edge])

    def fails() -> Iterator[Any]:
        raise DataError("a bad row")
        yield

    monkeypatch.setattr(one, "_left", fails())
    with pytest.raises(DataError):
        one.window(edge, edge + 3)
    assert one.place(edge).first > 0
    again = stream()
    again.go_to(one.place(edge))
    assert sequences(again, [edge, 20]) == whole[edge:]


def test_a_corpus_of_other_files_is_not_resumed(stream: Any, write: Write) -> None:
    place = stream()
    sequences(place, [0, 12])
    write("c.jsonl", json.dumps({"text": "z"}) + "\n")
    with pytest.raises(UsageError, match="its stream has 3 files and had 2 when the checkpoint was saved"):
        stream().go_to(place.place(12))
