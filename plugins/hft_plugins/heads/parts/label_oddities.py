"""Report what is odd about labels that are used as they are: spellings, notations of programs, labels in labels."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from hft_core.data import is_missing_word

YES, NO = ("yes", "y", "true", "t", "1", "on"), ("no", "n", "false", "f", "0", "off")
MARKS = (";", "|", ",", "/", "+", "&", "\t", "\uff0c", "\uff1b", "\u3001")
"""What may stand between the labels of a row."""
STRONG = (";", "|", "\uff0c", "\uff1b", "\u3001")
"""Marks that names hardly have."""
WORDS = (" ", " and ", "<br>")
"""What may stand there too, and is part of many names."""
FEW = 20
"""So few rows may well have a label each."""
RARE, FREQUENT = 2, 20
"""A label of so few rows may be a slip where another one has so many."""
EXACT = 2.0**53
"""Whole numbers from here on may be equal as floats and differ."""

_IN_QUOTES = re.compile(r"b?(['\"]).+\1|=\".*\"")
_SCORED = re.compile(r"(.+?)\s*[:=]\s*-?\d*\.\d+%?")


def oddities(labels: Sequence[str], column: str) -> list[str]:
    """Return what is odd about labels that are used as they are: a line for each kind, with the labels."""
    found = {
        "differ only in upper and lower case, and are classes of their own": _alike(labels, str.casefold),
        "differ only in hyphens, underscores and blanks, and are classes of their own": _alike(labels, _without_joints),
        "differ only in marks at their ends or in HTML, and are classes of their own": _alike(labels, _bare),
        "are equal numbers, and are classes of their own": _alike(labels, _number),
        "say yes or no in several ways, and are classes of their own": _yes_and_no(labels),
        "mix the letters of two alphabets in a word": [repr(label) for label in labels if _mixes_alphabets(label)],
        "are what programs write for a missing value, and are classes here": [
            repr(label) for label in labels if is_missing_word(label)
        ],
        "hold invisible characters, which are part of their names here": [
            ascii(label) for label in labels if any(unicodedata.category(c) == "Cf" for c in label)
        ],
        "are in quotes, which are part of their names here": [
            repr(label) for label in labels if _IN_QUOTES.fullmatch(label)
        ],
        "end in a number as scores do, and are classes of their own": _scored(labels),
    }
    return [f"column '{column}': the labels {_some(names)} {what}" for what, names in found.items() if names]


def joined(labels: Sequence[str]) -> str:
    """Describe labels that are made of other ones, as those of rows with several labels are; empty without any."""
    for mark in (*MARKS, *WORDS):
        if found := made_of_others(labels, mark):
            return (
                f"the labels {_some([repr(label) for label in found])} are other labels joined by {mark!r}, and are "
                f"classes of their own; the head 'multilabel' takes several labels a row (separator: {mark!r})"
            )
    return ""


def made_of_others(labels: Sequence[str], mark: str) -> list[str]:
    """Return the labels whose parts at a mark are labels too; where names hardly have the mark, also those whose parts
    are parts of further ones, if they are most of the labels with it."""
    known = set(labels)
    parts = {label: [part.strip() for part in label.split(mark)] for label in labels if mark in label}
    found = [label for label, of in parts.items() if known.issuperset(of)]
    if mark not in STRONG:
        return found
    seen = Counter([*labels, *(part for of in parts.values() for part in of)])
    shared = [label for label, of in parts.items() if all(part and seen[part] > 1 for part in of)]
    return shared if len(shared) * 2 >= len(parts) else found


def own_labels(labels: Sequence[str], rows: int) -> str:
    """Describe labels of which most are those of one row only; empty for others. `rows`: how many there are."""
    if rows < FEW or 2 * len(labels) <= rows:
        return ""
    return (
        f"{rows} rows have {len(labels)} labels, most of them in one row only, from which no class is learned: is this "
        "column a number or a name of the row?"
    )


def slips(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a line where a label of one row or two has the name of a frequent one, but for a letter."""
    frequent = [label for label, count in counts.items() if count >= FREQUENT]
    pairs = [
        f"{label!r} ({count} row{'s' * (count > 1)}) and {other!r}"
        for label, count in counts.items()
        if count <= RARE
        for other in frequent
        if _is_slip(label, other)
    ]
    if pairs:
        yield f"the labels {_some(pairs)} differ in a letter only, and are classes of their own"


def _is_slip(label: str, other: str) -> bool:
    """Return whether two names of five letters or more differ by a letter: wrong, missing, doubled, or exchanged with
    the next one."""
    short, long = sorted((label, other), key=len)
    if len(long) < 5 or len(long) - len(short) > 1 or not (label + other).replace(" ", "").isalpha():
        return False
    start = next((i for i, pair in enumerate(zip(short, long, strict=False)) if pair[0] != pair[1]), len(short))
    if len(short) < len(long):
        return short[start:] == long[start + 1 :]
    exchanged = short[start : start + 2][::-1] == long[start : start + 2]
    return short[start + 1 :] == long[start + 1 :] or (exchanged and short[start + 2 :] == long[start + 2 :])


def _alike(labels: Sequence[str], look: Callable[[str], str]) -> list[str]:
    """Return the groups of labels that `look` makes one text of, as texts; one that it makes empty has no group."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        if key := look(label):
            groups.setdefault(key, []).append(label)
    return [" and ".join(map(repr, same)) for same in groups.values() if len(same) > 1]


def _without_joints(label: str) -> str:
    """Join the words of a label: what is between them only, since '-1' is not '1'."""
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", "", label)


def _bare(label: str) -> str:
    """Return a label without HTML, and without the marks of a sentence around its words."""
    return html.unescape(label).strip(" .,;:!?\"'") if re.search(r"\w", label) else ""


def _number(label: str) -> str:
    try:
        value = float(label)
    except ValueError:
        return ""
    return repr(value) if abs(value) < EXACT else label


def _scored(labels: Sequence[str]) -> list[str]:
    """Return all labels, if each ends in a score and several have the same name before it."""
    found = [_SCORED.fullmatch(label) for label in labels]
    names = {match[1] for match in found if match}
    return [repr(label) for label in labels] if all(found) and len(names) < len(labels) else []


def _yes_and_no(labels: Sequence[str]) -> list[str]:
    """Return the labels where all of them say yes or no, in words that differ by more than upper and lower case."""
    said = {label.casefold() for label in labels}
    if not said <= {*YES, *NO} or max(len(said.intersection(words)) for words in (YES, NO)) < 2:
        return []
    return [repr(label) for label in labels]


def _mixes_alphabets(label: str) -> bool:
    """Return whether a word has letters of Latin and of an alphabet whose letters look like those of Latin."""
    for word in label.split():
        alphabets = {unicodedata.name(letter, "").partition(" ")[0] for letter in word if letter.isalpha()}
        if "LATIN" in alphabets and alphabets & {"CYRILLIC", "GREEK"}:
            return True
    return False


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
