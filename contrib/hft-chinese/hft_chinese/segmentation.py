"""Segment Chinese text into words with jieba and an optional user dictionary."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import jieba  # type: ignore[import-untyped]
import numpy as np

from hft_core.file_guard import open_regular
from hft_plugins.heads.parts.token_overlap import NO_SPAN, span_of_each

NO_WORD = NO_SPAN
"""Of blanks and of special tokens, the unknown one among them: there is no character to predict."""

Word = tuple[str, int | None]
"""A word of a user's dictionary, and its frequency; None: what it takes for jieba to find the word."""

_LINE = re.compile(r"(\S+)(?:\s+([0-9]+))?(?:\s+([a-z]+))?")

jieba.setLogLevel(logging.WARNING)  # it reports on standard error that it loads its dictionary


def read_dictionary(path: str) -> list[Word]:
    """Read the words of a dictionary in jieba's format: `WORD [FREQUENCY] [TAG]` a line, in UTF-8; tags are ignored.

    Raises `ValueError`, with the line, for a file that is no such dictionary.
    """
    try:
        with open_regular(path) as file:
            lines = file.read().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise ValueError(f"dictionary '{path}' cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"dictionary '{path}' is not UTF-8; save it as UTF-8") from None
    words: list[Word] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        form = _LINE.fullmatch(line.strip())
        # jieba takes the frequency 0 for an order to divide the word, in every tokenizer of the process.
        if form is None or (form[2] is not None and int(form[2]) == 0):
            raise ValueError(
                f"dictionary '{path}', line {number}: found '{line.strip()[:40]}', expected WORD, WORD FREQUENCY or "
                "WORD FREQUENCY TAG, for instance '云计算 5 n' (a frequency of 1 or more)"
            )
        words.append((form[1], None if form[2] is None else int(form[2])))
    if not words:
        raise ValueError(f"dictionary '{path}' has no words, expected one a line")
    return words


@lru_cache(maxsize=4)
def segmenter(dictionary: tuple[Word, ...]) -> jieba.Tokenizer:
    """Create a separate jieba instance with the words added, so that other runs, and the host, keep theirs."""
    made = jieba.Tokenizer()
    for word, frequency in dictionary:
        made.add_word(word, frequency)
    return made


def words_of(
    encoding: Any, texts: Sequence[str], cutter: jieba.Tokenizer, special: Sequence[int], *, hmm: bool
) -> list[list[int]]:
    """For each example of a fast tokenizer's `encoding` of `texts` (with offsets and overflow), the number of each
    token's word in its text, or `NO_WORD`.

    A token belongs to the first word that it shares a character with; blanks are no words.
    """
    words = [_spans(text, cutter, hmm=hmm) for text in texts]
    columns = (encoding[name] for name in ("input_ids", "offset_mapping", "overflow_to_sample_mapping"))
    return [
        np.where(np.isin(ids, special), NO_WORD, span_of_each(offsets, words[row])).tolist()
        for ids, offsets, row in zip(*columns, strict=True)
    ]


def _spans(text: str, cutter: jieba.Tokenizer, *, hmm: bool) -> list[tuple[int, int]]:
    """(first character, one beyond the last) of each word of the text."""
    ends = np.cumsum([0, *(len(word) for word in cutter.cut(text, HMM=hmm))]).tolist()
    return [span for span in pairwise(ends) if not text[slice(*span)].isspace()]
