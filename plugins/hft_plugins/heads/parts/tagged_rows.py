"""Recognize rows that are no sentences with a tag a word, and tags that mark no chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from hft_core.head import RowError
from hft_plugins.heads.parts import tag_notations

FEW = 20
"""So few rows may well have one word each."""
OUTSIDE = ("o", "0", "out", "outside", "other", "none", "nil", "null", "-", "_", "*")
"""Names of the tag of words that belong to nothing, in small letters."""
IGNORED = "-100"
"""Marks positions that are not learned in the labels of tokenized data sets."""


def refuse_misread(
    words: Sequence[Sequence[str]], tags: Sequence[Sequence[str]], words_column: str, tags_column: str
) -> None:
    """Raise `RowError` for words that are numbers of words or tags, for rows of one word each, and for `IGNORED`."""
    if _are_numbered(words):
        raise RowError(
            0,
            f"column '{words_column}' holds the numbers of the words ({', '.join(words[0][:3])}, …), expected the "
            "words (of a CoNLL file whose first column numbers them: words: column_2)",
        )
    if _are_tags(words) and not _are_tags(tags):
        raise RowError(
            0,
            f"column '{words_column}' holds tags and column '{tags_column}' none: exchange the two (of a CoNLL file "
            "whose tags come first: words: column_2, tags: words)",
        )
    if len(words) >= FEW and all(len(sentence) == 1 for sentence in words):
        raise RowError(
            0,
            f"column '{words_column}': each of the {len(words)} rows has one word ({words[0][0][:40]!r}), expected a "
            "sentence a row: lists, texts divided at blanks, or a CoNLL file with a blank line after each sentence",
        )
    place = next(((row, found.index(IGNORED)) for row, found in enumerate(tags) if IGNORED in found), None)
    if place is not None:
        raise RowError(
            place[0],
            f"column '{tags_column}', item {place[1] + 1}: found {IGNORED}, which marks tokens that are not learned in "
            "tokenized data; expected one tag a word",
        )


def without_chunks(tags: Sequence[Sequence[str]], column: str) -> Iterator[str]:
    """Yield a warning where tags that mark no chunks are scored by word, and most words have one that marks nothing."""
    counts = Counter(chain.from_iterable(tags))
    most, count = counts.most_common(1)[0]
    share = count / counts.total()
    if most.lower() in OUTSIDE or share > 0.5:
        yield (
            f"column '{column}': no tag marks chunks as 'B-' and 'I-' do, and {share:.0%} of the words "
            f"have the tag '{most}': f1 counts each word, these too (scheme: plain, if each word's tag is meant by "
            "itself)"
        )


def _are_numbered(sentences: Sequence[Sequence[str]]) -> bool:
    """Return whether the words of each sentence are 1, 2, 3 … or 0, 1, 2 …"""
    if not any(len(words) > 1 for words in sentences):
        return False
    return any(
        all(list(words) == [str(i) for i in range(start, start + len(words))] for words in sentences)
        for start in (0, 1)
    )


def _are_tags(sentences: Sequence[Sequence[str]]) -> bool:
    """Return whether all words are tags of chunks, `O` among them."""
    found = Counter(chain.from_iterable(sentences))
    notation = tag_notations.notation_of(found)
    parsed = [notation.parse(tag) for tag in found]
    letters = {each[0] for each in parsed if each}
    return None not in parsed and any(each and each[1] for each in parsed) and "O" in letters
