"""Find a sentence's words among its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from hft_plugins.heads.parts import token_overlap


def text_of(words: Sequence[str]) -> str:
    """The sentence as the tokenizer sees it: also one that makes a blank part of the word behind it."""
    return " ".join(words)


def first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Positions of the words' first tokens, and the words (from 0) that they belong to; a word beyond the cut, or one
    that the tokenizer drops, has none. `offsets`: of each token in `text_of(words)`; (0, 0) for special tokens."""
    found = token_overlap.first_token_of_each(offsets, token_overlap.words_in(words))
    return [position for position, _ in found], [word for _, word in found]
