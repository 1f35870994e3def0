"""Find how a file writes the tags of chunks: where the letter stands, what joins it to the type, and the scheme.

Read as `B-PER` are also `B_PER`, `PER-B` and `b-per`, if all tags of the training rows are written so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, product
from typing import Any

from hft_core.head import RowError
from hft_plugins.heads.parts import tag_schemes

PLAIN = "plain"
LETTERS = "BIESLUMW"
JOINERS = "-_:/|."


@dataclass(frozen=True)
class Notation:
    """How a tag is written."""

    joiner: str = "-"
    suffix: bool = False
    """The letter is behind the type: `PER-B`."""
    lower: bool = False
    """The letter is a small one: `b-per`."""

    def parse(self, tag: str) -> tuple[str, str] | None:
        """Return the letter, as a capital, and the type ("" if the tag is a letter only); None for another notation."""
        letter, kind = tag, ""
        if len(tag) > 1:
            letter, joiner = (tag[-1], tag[-2]) if self.suffix else (tag[0], tag[1])
            kind = tag[:-2] if self.suffix else tag[2:]
            if joiner != self.joiner or not kind or kind != kind.strip() or letter in "Oo":
                return None
        if letter not in (LETTERS.lower() + "oO" if self.lower else LETTERS + "O"):
            return None
        return letter.upper(), kind

    def read(self, tag: str, scheme: str) -> str:
        """Return the tag with the letter in front, and with the letters of IOBES for those of BMES; others as it is."""
        parsed = self.parse(tag)
        if parsed is None:
            return tag
        letter, kind = parsed
        letter = {"M": "I", "W": "S"}.get(letter, letter) if scheme == "bmes" else letter
        return f"{letter}-{kind}" if kind else letter

    def written(self, tag: str, scheme: str) -> str:
        """Return what `read` would return `tag` for."""
        letter, _, kind = tag.partition("-")
        letter = {"I": "M"}.get(letter, letter) if scheme == "bmes" else letter
        letter = letter.lower() if self.lower else letter
        return letter if not kind else f"{kind}{self.joiner}{letter}" if self.suffix else f"{letter}{self.joiner}{kind}"

    def fact(self) -> dict[str, Any]:
        """Return the notation as a fact of the head; empty for the usual one."""
        return {} if self == USUAL else {"notation": asdict(self)}


USUAL = Notation()
NOTATIONS = [
    Notation(joiner, suffix, lower) for lower, suffix, joiner in product((False, True), (False, True), JOINERS)
]
"""The usual one comes first."""


def of_facts(facts: Mapping[str, Any]) -> Notation:
    """Return the notation that `Notation.fact` wrote."""
    return Notation(**facts.get("notation", {}))


def kind_of(tag: str) -> str:
    """Return the type of the chunk that a tag is part of, in whatever notation; the tag itself if it has none."""
    return next((found[1] for notation in NOTATIONS if (found := notation.parse(tag)) is not None and found[1]), tag)


def notation_of(tags: Counter[str]) -> Notation:
    """Return the notation in which most typed tags are written; the usual one where there are none."""
    return max(NOTATIONS, key=lambda notation: sum(tags[tag] for tag in _typed(tags, notation)))


def detect(sentences: Sequence[Sequence[str]], column: str) -> tuple[str, Notation]:
    """Return the scheme in which all `sentences` are written (`plain` where tags mark no chunks) and its notation.

    Raises `RowError` where a few tags are none of a scheme that most are of, and for letters of no one scheme.
    """
    tags = Counter(chain.from_iterable(sentences))
    notation = notation_of(tags)
    typed = _typed(tags, notation)
    parsed = {tag: notation.parse(tag) for tag in tags}
    letters = {found[0] for found in parsed.values() if found}
    odd = {tag for tag, found in parsed.items() if found is None or (typed and found[0] != "O" and not found[1])}
    if not typed:
        notation = next((n for n in (USUAL, Notation(lower=True)) if all(map(n.parse, tags))), USUAL)
        if (odd and notation == USUAL) or not _untyped_chunks({tag.upper() for tag in tags}):
            return PLAIN, USUAL
    elif odd:
        if not _mostly(tags, typed, odd, notation):
            return PLAIN, USUAL
        _refuse(sentences, odd, column, f"expected a tag like {_examples(typed, tags)}, as most are")
    elif notation != USUAL and "O" not in letters and not ("B" in letters and letters & set("IEM")):
        return PLAIN, USUAL
    scheme = tag_schemes.of_letters([[notation.read(tag, PLAIN) for tag in sentence] for sentence in sentences])
    if scheme is None:
        why = f"but the letters {', '.join(sorted(letters - {'O'}))} are of no one scheme"
        _refuse(sentences, _of_no_scheme(parsed), column, why)
    _refuse_types_in_two_cases(sentences, typed, notation, column)
    return str(scheme), notation


def _typed(tags: Iterable[str], notation: Notation) -> set[str]:
    return {tag for tag in tags if (found := notation.parse(tag)) is not None and found[1]}


def _untyped_chunks(letters: set[str]) -> bool:
    """Return whether tags that are letters only mark chunks, as in word segmentation."""
    return {"B", "I"} <= letters or ({"B", "E"} <= letters and bool(letters & set("MSW")))


def _mostly(tags: Counter[str], typed: set[str], odd: set[str], notation: Notation) -> bool:
    """Return whether tags of chunks prevail, or all others are tags of chunks in another notation."""
    letters = {found[0] for tag in tags if (found := notation.parse(tag))}
    if not letters & set("BI") or (notation != USUAL and not letters & set("BO")):
        return False
    elsewhere = all(any(other.parse(tag) for other in NOTATIONS) for tag in odd)
    return len(odd) < len(typed) or sum(tags[t] for t in odd) < sum(tags[t] for t in typed) or elsewhere


def _of_no_scheme(parsed: Mapping[str, tuple[str, str] | None]) -> set[str]:
    """Return the tags whose letters are not those of the scheme that fits most tags."""
    letters = Counter(found[0] for found in parsed.values() if found)
    best = max(tag_schemes.LETTERS.values(), key=lambda known: sum(letters[letter] for letter in {*known, "O"}))
    return {tag for tag, found in parsed.items() if found and found[0] not in {*best, "O"}}


def _refuse_types_in_two_cases(
    sentences: Sequence[Sequence[str]], typed: set[str], notation: Notation, column: str
) -> None:
    kinds: dict[str, str] = {}
    for tag in sorted(typed):
        found = notation.parse(tag)
        kind = found[1] if found else ""
        other = kinds.setdefault(kind.casefold(), kind)
        if other != kind:
            _refuse(sentences, {tag}, column, f"which is the type '{other}' of other tags in another case")


def _examples(typed: set[str], tags: Counter[str]) -> str:
    return " or ".join(repr(tag) for tag in sorted(typed, key=lambda tag: (-tags[tag], tag))[:2])


def _refuse(sentences: Sequence[Sequence[str]], odd: set[str], column: str, why: str) -> None:
    """Raise `RowError` for the first tag that is in `odd`."""
    row, item, tag = next((i, n, t) for i, tags in enumerate(sentences) for n, t in enumerate(tags, 1) if t in odd)
    count = sum(tag in odd for tag in chain.from_iterable(sentences))
    more = f" ({count} such tags)" if count > 1 else ""
    hint = "scheme: plain, if each word's tag is meant by itself"
    raise RowError(row, f"column '{column}', item {item}: found the tag {tag!r}{more}, {why} ({hint})")
