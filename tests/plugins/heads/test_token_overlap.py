from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hft_plugins.heads.parts.token_overlap import (
    NO_SPAN,
    first_token_of_each,
    span_of_each,
    tokens_of,
    without_blanks,
    words_in,
)

WORDS = ("the", "cat", "saw", "dog", "near", "market", "\N{GRINNING FACE}", "cafe\u0301", "\u05e9\u05dc\u05d5\u05dd")
TEXT = " ".join(WORDS)


def unigram() -> PreTrainedTokenizerFast:
    """A tokenizer like T5's: a blank is part of the word behind it, also at the start of a text."""
    pieces = [
        ("<unk>", 0.0),
        ("\u2581", -9.0),
        *((f"\u2581{word}", -2.0) for word in ("the", "cat", "saw", "dog", "near")),
    ]
    pieces += [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(tokenizer_models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.fixture(params=["bert", "llama", "roberta", "unigram"])
def tokenizer(request: Any, models: Any) -> Any:
    """Tokenizers that drop blanks, that give them to the next word with and without saying so, and in pieces."""
    return unigram() if request.param == "unigram" else AutoTokenizer.from_pretrained(models[request.param])


def test_a_span_has_the_tokens_that_share_a_character_with_it() -> None:
    offsets = [(0, 0), (0, 3), (3, 7), (7, 7), (7, 11), (11, 12), (0, 0)]
    assert tokens_of((4, 7), offsets) == (2, 3)
    assert tokens_of((2, 8), offsets) == (1, 5)
    assert tokens_of((11, 12), offsets) == (5, 6)
    assert tokens_of((12, 15), offsets) is None
    assert tokens_of((5, 5), offsets) is None
    assert tokens_of((6, 9), [(0, 0), (0, 6), (7, 7), (7, 9), (0, 0)]) == (2, 4)
    assert tokens_of((7, 9), [(0, 0), (0, 6), (7, 7), (7, 9), (0, 0)]) == (3, 4)
    assert span_of_each(offsets, [(0, 2), (4, 5), (6, 12)]).tolist() == [NO_SPAN, 0, 1, NO_SPAN, 2, 2, NO_SPAN]
    assert span_of_each(offsets, []).tolist() == [NO_SPAN] * 7


def test_a_token_that_words_share_is_the_first_ones() -> None:
    assert first_token_of_each([(0, 0), (0, 5), (5, 7), (7, 9)], [(0, 2), (3, 7), (8, 9)]) == [(1, 0), (2, 1), (3, 2)]
    assert first_token_of_each([(0, 7), (7, 9)], [(0, 2), (3, 7), (8, 9)]) == [(0, 0), (1, 2)]


def test_every_word_has_a_token_that_holds_its_first_character(tokenizer: Any) -> None:
    encoding = tokenizer(TEXT, return_offsets_mapping=True)
    found = first_token_of_each(encoding["offset_mapping"], words_in(WORDS))
    assert [word for _, word in found] == list(range(len(WORDS)))
    for token, word in found:
        start, end = encoding["offset_mapping"][token]
        assert TEXT[start:end].strip()[0] == WORDS[word][0]


@pytest.mark.parametrize("word", WORDS)
def test_the_tokens_of_a_word_hold_it_and_no_other_word(word: str, tokenizer: Any) -> None:
    start = TEXT.index(word)
    encoding = tokenizer(TEXT, return_offsets_mapping=True)
    found = tokens_of((start, start + len(word)), encoding["offset_mapping"])
    assert found is not None
    covered = encoding["offset_mapping"][found[0] : found[1]]
    said = TEXT[min(a for a, _ in covered) : max(b for _, b in covered)].strip()
    assert said == (word if tokenizer.tokenize("\u0301") else word.rstrip("\u0301"))


def test_blanks_at_the_ends_are_left_out() -> None:
    text = " the\r\n cat\u00a0 "
    assert without_blanks((0, len(text)), text) == (1, 10)
    assert without_blanks((1, 4), text) == (1, 4)
    assert without_blanks((4, 7), text) == (7, 7)
