"""Find the tokens of spans of characters (turns, answers, words): those that share a character with the span.

It does not matter where a token starts, nor whether it encloses the span: a blank before a word is part of the word's
token for some tokenizers, and several characters merge to one token. `offsets` are those of a fast tokenizer: the first
character of each token, and one beyond its last; tokens without characters (special ones) belong to no span.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Offsets = Sequence[tuple[int, int]]
Span = tuple[int, int]
"""The first one (character or token), and one beyond the last."""

NO_SPAN = -1


def span_of_each(offsets: Offsets, spans: Sequence[Span]) -> NDArray[np.int64]:
    """Return for each token the index of the first span that it shares a character with, or `NO_SPAN`.

    `spans`: of characters, in order and apart from each other, none of them empty.
    """
    tokens = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    if not spans:
        return np.full(len(tokens), NO_SPAN)
    starts, ends = np.asarray(spans, dtype=np.int64).T
    found = np.searchsorted(ends, tokens[:, 0], side="right")
    nearest = np.minimum(found, len(spans) - 1)
    shares = np.maximum(starts[nearest], tokens[:, 0]) < np.minimum(ends[nearest], tokens[:, 1])
    return np.where(shares, nearest, NO_SPAN)


def tokens_of(span: Span, offsets: Offsets) -> Span | None:
    """Return the tokens from the first to the last that shares a character with the span; None if none does.

    Tokens before the first that have no characters of their own, but a place behind the start of the span, belong to
    it: a blank by itself, where a tokenizer's offsets leave blanks out.
    """
    if span[0] >= span[1]:
        return None
    inside = np.flatnonzero(span_of_each(offsets, [span]) == 0)
    if not len(inside):
        return None
    first = int(inside[0])
    while first and span[0] < offsets[first - 1][0] == offsets[first - 1][1]:
        first -= 1
    return first, int(inside[-1]) + 1


def first_token_of_each(offsets: Offsets, spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Return (token, span) of the first token of each span, by its index; a token that several spans share is the
    first one's, and a span without a token of its own is left out."""
    owner = span_of_each(offsets, spans)
    indices, firsts = np.unique(owner, return_index=True)
    return [(int(token), int(span)) for span, token in zip(indices, firsts, strict=True) if span != NO_SPAN]


def without_blanks(span: Span, text: str) -> Span:
    """Return the span without the blanks at its ends, which some tokenizers drop and others give to the word beside
    them; empty if there is nothing else in it."""
    inside = text[span[0] : span[1]]
    start = span[0] + len(inside) - len(inside.lstrip())
    return start, start + len(inside.strip())


def words_in(words: Sequence[str]) -> list[Span]:
    """Return the span of each word in the words joined by single blanks."""
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    return [(int(end) - len(word), int(end)) for end, word in zip(ends, words, strict=True)]
