"""Find the blanks at the end of a prompt that a tokenizer merges with what is written after it.

A prompt that ends in such a blank has other tokens than a text that continues: the tokenizer gives the blank to the
next word. What is learned after it would not follow the prompt's own last token, which no text of the training rows
has.
"""

from __future__ import annotations

import string
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

FIRST_CHARACTERS = (*string.ascii_letters, *string.digits, *string.punctuation, *"éдαاअ的あ한")
"""Characters that a response may begin with."""
TAIL = 40
"""Characters at a prompt's end that decide how its last blanks are tokenized."""

BLANK_MARKS = ("\u0120", "\u2581")
"""What stands for the blank before a word in the tokens of byte-level and SentencePiece vocabularies."""

_found: WeakKeyDictionary[PreTrainedTokenizerBase, dict[str, int]] = WeakKeyDictionary()


def loose_end(prompt: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many characters at the end of the prompt merge with a response, in one of its forms at least.

    0 for a prompt that does not end in a blank. The tokenizer is a fast one.
    """
    if not prompt or not prompt[-1].isspace():
        return 0
    known = _found.setdefault(tokenizer, {})
    tail = prompt[-TAIL:]
    if tail not in known:
        known[tail] = _loose(tail, tokenizer)
    return known[tail]


def _beginnings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return what responses may begin with: single characters, and for each first letter the shortest word that is one
    token with the blank before it."""
    words: dict[str, str] = {}
    for token in tokenizer.get_vocab():
        word = token[1:]
        if token.startswith(BLANK_MARKS) and word.isascii() and word.isalnum():
            words[word[0]] = min(words.get(word[0], word), word, key=lambda text: (len(text), text))
    return [*FIRST_CHARACTERS, *sorted(words.values())]


def _loose(tail: str, tokenizer: PreTrainedTokenizerBase) -> int:
    encoding = tokenizer(
        [tail, *(tail + beginning for beginning in _beginnings(tokenizer))],
        add_special_tokens=False,
        return_offsets_mapping=True,
    )
    (alone, *continued), offsets = encoding["input_ids"], encoding["offset_mapping"][0]
    kept = min(_common(alone, ids) for ids in continued)
    if kept == len(alone):
        return 0
    return len(tail) - (offsets[kept - 1][1] if kept else 0)


def _common(one: list[int], other: list[int]) -> int:
    """Return how many tokens both begin with."""
    return next(
        (i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )
