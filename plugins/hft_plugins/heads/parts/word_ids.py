"""Find the word of each token of a text: by the tokenizer, or by a segmenter for texts without blanks."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Any, Literal

from hft_plugins.heads.parts.token_overlap import NO_SPAN, Span, span_of_each

Segmenter = Literal["jieba"]

NO_WORD = NO_SPAN
"""Of special tokens, and of tokens of blanks alone."""


def need_segmenter(name: Segmenter) -> None:
    """Raise `ValueError`, with the command that helps, where the segmenter is not installed."""
    try:
        importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"segmenter '{name}' is not installed: pip install 'hft-core[chinese]', or leave 'segmenter' out"
        ) from None


def words_of(encoding: Any, texts: Sequence[str], segmenter: Segmenter | None) -> list[list[int]]:
    """Return, for each example of a tokenizer's `encoding` of `texts`, the number of each token's word, or `NO_WORD`.

    A word of the tokenizer is what it takes apart into pieces; of Chinese, that is one character. A segmenter's words
    are found in the text, and a token belongs to the first one that it shares a character with: characters are grouped
    to words, as whole-word masking of Chinese needs it (Cui et al. 2021, arXiv:1906.08101).
    """
    examples = range(len(encoding["input_ids"]))
    own = [[NO_WORD if word is None else word for word in encoding.word_ids(i)] for i in examples]
    if segmenter is None:
        return own
    segments = [_segments(text) for text in texts]
    made = []
    for i in examples:
        found = span_of_each(encoding["offset_mapping"][i], segments[encoding["overflow_to_sample_mapping"][i]])
        made.append([NO_WORD if word == NO_WORD else int(n) for word, n in zip(own[i], found, strict=True)])
    return made


def _segments(text: str) -> list[Span]:
    """(first character, one beyond the last) of each of jieba's words; blanks are none."""
    import jieba  # type: ignore[import-untyped]

    jieba.setLogLevel(logging.WARNING)  # it reports on standard error that it loads its dictionary
    return [(start, end) for word, start, end in jieba.tokenize(text) if not word.isspace()]
