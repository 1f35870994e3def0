"""Turn labeled spans of characters into words with BIO tags."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from hft_core.data.readers.annotations.items import Span
from hft_core.errors import DataError

_ONE_BY_ONE = ("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA", "THAI CHARACTER")
"""Beginnings of the names of letters that are written without blanks between words: each is a word."""


def words_of(text: str) -> list[tuple[int, int]]:
    """Return the characters of each word: a run of letters, marks and digits, or one punctuation mark or symbol.

    Each letter of a script without blanks between words is a word.
    """
    found: list[tuple[int, int]] = []
    grows = False
    for at, mark in enumerate(text):
        kind = unicodedata.category(mark)[0]
        if kind in "ZC":
            grows = False
        elif kind == "M" and found and found[-1][1] == at:  # a mark belongs to what it stands on
            found[-1] = (found[-1][0], at + 1)
        elif kind in "PS" or unicodedata.name(mark, "").startswith(_ONE_BY_ONE):
            found.append((at, at + 1))
            grows = False
        elif grows:
            found[-1] = (found[-1][0], at + 1)
        else:
            found.append((at, at + 1))
            grows = True
    return found


def tags_of(
    text: str, words: Sequence[tuple[int, int]], spans: Sequence[Span], place: str
) -> tuple[list[str], list[tuple[Span, str]]]:
    """Return the tag of each word, and the spans that begin or end inside a word with the words they were widened to.

    A word that a span overlaps belongs to it. Raises `DataError` that begins with `place` for spans that overlap, that
    touch the same word, or that hold no word.
    """
    tags = ["O"] * len(words)
    widened = []
    ordered = sorted(spans)
    for one, other in pairwise(ordered):
        if other.start < one.end:
            raise DataError(f"{place}: {_shown(text, one)} and {_shown(text, other)} overlap, expected one tag a word")
    for span in ordered:
        inside = [i for i, (start, end) in enumerate(words) if start < span.end and end > span.start]
        if not inside:
            raise DataError(f"{place}: {_shown(text, span)} holds no word")
        taken = next((i for i in inside if tags[i] != "O"), None)
        if taken is not None:
            start, end = words[taken]
            raise DataError(f"{place}: {_shown(text, span)} and another span are in one word, {text[start:end]!r}")
        for i in inside:
            tags[i] = f"{'B' if i == inside[0] else 'I'}-{span.label}"
        first, last = words[inside[0]][0], words[inside[-1]][1]
        if (first, last) != (span.start, span.end):
            widened.append((span, text[first:last]))
    return tags, widened


def _shown(text: str, span: Span) -> str:
    return f"the span '{span.label}' {text[span.start : span.end][:40]!r} ({span.start} to {span.end})"
