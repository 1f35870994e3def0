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
}
"""By scheme: the letter of a chunk's first word, of its inner ones, of its last, and of a chunk of one word. `bio` is
also called IOB2. In `iob1` (CoNLL-2003 as published), a chunk begins with B only right behind another of its type."""

Chunk = tuple[int, int, str]
"""Of words `start` to `end` (exclusive), with a type."""

_TAG = re.compile(r"O|[BIESLU](-.+)?", re.DOTALL)


def detect(sentences: Sequence[Sequence[str]]) -> str:
    """The scheme in which all `sentences` are written; `plain` where the tags mark no chunks (parts of speech).

    With the letters B and I alone, it is `iob1` where all sentences follow that scheme's rule and some break that of
    `bio`; where some break both, `bio`.
    """
    tags = set(chain.from_iterable(sentences))
    letters = {tag[:1] for tag in tags}
    typed = any("-" in tag for tag in tags)
    if not all(_TAG.fullmatch(tag) for tag in tags) or not (typed or {"B", "I"} <= tags):
        return "plain"
    if letters <= set("OBI"):
        follow = {scheme: all(fault(tags, scheme) is None for tags in sentences) for scheme in ("bio", "iob1")}
        return "iob1" if follow["iob1"] and not follow["bio"] else "bio"
    return next((s for s in ("iobes", "bilou") if letters <= {"O", *LETTERS[s]}), "plain")


def tags_of(types: Iterable[str], scheme: str) -> list[str]:
    """All tags of the scheme for chunks of these types, `O` first."""
    letters = dict.fromkeys(LETTERS[scheme])
    return ["O", *(_tag(letter, kind) for kind in sorted(set(types)) for letter in letters)]


def types_of(tags: Iterable[str]) -> set[str]:
    """The types of the chunks that tags of this form can mark; others are passed over."""
    return {tag.partition("-")[2] for tag in tags if _TAG.fullmatch(tag) and tag != "O"}


def read(tags: Sequence[str]) -> list[Chunk]:
    """The chunks that the tags of any scheme mark, well formed or not, as the script conlleval of CoNLL-2000 takes
    them: a chunk goes on while its type does, until a letter begins or ends one."""
    found: list[Chunk] = []
    start, kind, ended = -1, "", True
    for i, tag in enumerate([*tags, "O"]):
        letter, _, new = tag.partition("-")
        goes_on = letter in ("I", "E", "L") and new == kind and not ended
        if not goes_on:
            if start >= 0:
                found.append((start, i, kind))
            start, kind = (-1, "") if letter == "O" else (i, new)
        ended = letter in ("O", "E", "S", "L", "U")
    return found


def write(chunks: Iterable[Chunk], length: int, scheme: str) -> list[str]:
    """The tags of `length` words with these chunks, which follow one another."""
    first, inner, last, only = LETTERS[scheme]
    tags = ["O"] * length
    before: Chunk = (0, -1, "")
    for chunk in chunks:
        start, end, kind = chunk
        begin = "B" if scheme == "iob1" and before[1:] == (start, kind) else first if end - start > 1 else only
        letters = [begin] if end - start == 1 else [begin, *[inner] * (end - start - 2), last]
        tags[start:end] = [_tag(letter, kind) for letter in letters]
        before = chunk
    return tags


def fault(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
    """The first tag that breaks the scheme's rules, by its index, and what it would have to be; None without any."""
    right = write(read(tags), len(tags), scheme)
    return next(((i, good) for i, (tag, good) in enumerate(zip(tags, right, strict=True)) if tag != good), None)


def well_formed(tags: Sequence[str], scheme: str) -> list[Chunk]:
    """The chunks whose tags follow the scheme; those that do not are none (seqeval's strict mode)."""
    return [c for c in read(tags) if write([(0, c[1] - c[0], c[2])], c[1] - c[0], scheme) == list(tags[c[0] : c[1]])]


def _tag(letter: str, kind: str) -> str:
    return f"{letter}-{kind}" if kind else letter
