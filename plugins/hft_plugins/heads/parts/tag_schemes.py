"""Tags that mark stretches of words (BIO and its relatives), and what they mark.

A tag is `O`, or a letter that says where in its chunk the word is and, behind a hyphen, the chunk's type: `B-PER`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain

LETTERS = {
    "bio": ("B", "I", "I", "B"),
    "iob1": ("I", "I", "I", "I"),
    "iobes": ("B", "I", "E", "S"),
    "bilou": ("B", "I", "L", "U"),
    "ioe1": ("I", "I", "I", "I"),
    "ioe2": ("I", "I", "E", "E"),
    "bmes": ("B", "M", "E", "S"),
}
"""By scheme: the letter of a chunk's first word, of its inner ones, of its last, and of a chunk of one word. `bio` is
also called IOB2. In `iob1` (CoNLL-2003 as published), a chunk begins with B only right behind another of its type; in
`ioe1`, it ends with E only right before one (Tjong Kim Sang and Veenstra 1999, arXiv:cs/9907006)."""
OTHERS = {"bmes": "W"}
"""Further letters: BMEWO has W for a chunk of one word."""
LEARNED_AS = {"iob1": "bio", "ioe1": "bio", "ioe2": "bio", "bmes": "iobes"}
"""Schemes whose tags are converted to those of another."""

Chunk = tuple[int, int, str]
"""Of words `start` to `end` (exclusive), with a type."""

_TAG = re.compile(r"O|[BIESLU](-.+)?", re.DOTALL)


def of_letters(sentences: Sequence[Sequence[str]]) -> str | None:
    """Return the scheme whose letters all tags of `sentences` have; None if they are of no one scheme.

    With the letters B and I alone, it is `iob1` where all sentences follow that scheme's rule and some break that of
    `bio`; where some break both, `bio`. With E and I alone, it is `ioe1` or `ioe2` by the same rule.
    """
    letters = {tag[:1] for tag in chain.from_iterable(sentences)} - {"O"}
    if letters <= set("BI"):
        return _by_rules(sentences, "bio", "iob1")
    if letters <= set("IE") and "S" not in letters:
        return _by_rules(sentences, "ioe2", "ioe1")
    known = {scheme: {*LETTERS[scheme], *OTHERS.get(scheme, "")} for scheme in ("iobes", "bilou", "bmes")}
    return next((scheme for scheme, own in known.items() if letters <= own), None)


def _by_rules(sentences: Sequence[Sequence[str]], usual: str, other: str) -> str:
    follow = {scheme: all(fault(tags, scheme) is None for tags in sentences) for scheme in (usual, other)}
    return other if follow[other] and not follow[usual] else usual


def tags_of(types: Iterable[str], scheme: str) -> list[str]:
    """Return all tags of the scheme for chunks of these types, `O` first."""
    letters = dict.fromkeys(LETTERS[scheme])
    return ["O", *(_tag(letter, kind) for kind in sorted(set(types)) for letter in letters)]


def types_of(tags: Iterable[str]) -> set[str]:
    """Return the types of the chunks that tags of this form can mark; others are passed over."""
    return {tag.partition("-")[2] for tag in tags if _TAG.fullmatch(tag) and tag != "O"}


def read(tags: Sequence[str]) -> list[Chunk]:
    """Return the chunks that tags of any scheme mark, well formed or not, as the script conlleval of CoNLL-2000 takes
    them: a chunk continues while its type does, until a letter begins or ends one."""
    found: list[Chunk] = []
    start, kind, ended = -1, "", True
    for i, tag in enumerate([*tags, "O"]):
        letter, _, new = tag.partition("-")
        goes_on = letter in ("I", "M", "E", "L") and new == kind and not ended
        if not goes_on:
            if start >= 0:
                found.append((start, i, kind))
            start, kind = (-1, "") if letter == "O" else (i, new)
        ended = letter in ("O", "E", "S", "W", "L", "U")
    return found


def write(chunks: Iterable[Chunk], length: int, scheme: str) -> list[str]:
    """Return the tags of `length` words with these chunks, which follow one another."""
    first, inner, last, only = LETTERS[scheme]
    tags = ["O"] * length
    listed = list(chunks)
    for i, (start, end, kind) in enumerate(listed):
        letters = [only] if end - start == 1 else [first, *[inner] * (end - start - 2), last]
        if scheme == "iob1" and i and listed[i - 1][1:] == (start, kind):
            letters[0] = "B"
        if scheme == "ioe1" and listed[i + 1 : i + 2] and listed[i + 1][::2] == (end, kind):
            letters[-1] = "E"
        tags[start:end] = [_tag(letter, kind) for letter in letters]
    return tags


def fault(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
    """Return the index of the first tag that breaks the scheme's rules, and the right tag; None without any."""
    right = write(read(tags), len(tags), scheme)
    return next(((i, good) for i, (tag, good) in enumerate(zip(tags, right, strict=True)) if tag != good), None)


def well_formed(tags: Sequence[str], scheme: str) -> list[Chunk]:
    """Return the chunks whose tags follow the scheme; those that do not are none (seqeval's strict mode)."""
    return [c for c in read(tags) if write([(0, c[1] - c[0], c[2])], c[1] - c[0], scheme) == list(tags[c[0] : c[1]])]


def _tag(letter: str, kind: str) -> str:
    return f"{letter}-{kind}" if kind else letter
