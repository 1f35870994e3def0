"""Where a sentence's words are in what its tokenizer made of it."""

from __future__ import annotations

from collections.abc import Sequence


def text_of(words: Sequence[str]) -> str:
    """The sentence as the tokenizer sees it: also one that makes a blank part of the word behind it."""
    return " ".join(words)


def first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Positions of the words' first tokens, and the words (from 0) that they belong to; a word beyond the cut, or one
    that the tokenizer drops, has none. `offsets`: of each token in `text_of(words)`; (0, 0) for special tokens."""
    owner = [i for i, word in enumerate(words) for i in [i] * len(word) + [-1]]
    positions: list[int] = []
    found: list[int] = []
    for position, (start, end) in enumerate(offsets):
        word = next((owner[at] for at in range(start, end) if owner[at] >= 0), -1)
        if word > (found[-1] if found else -1):
            positions.append(position)
            found.append(word)
    return positions, found
