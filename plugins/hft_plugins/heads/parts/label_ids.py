"""Give labels their ids: their order, which are alike, how an unknown one is reported, and what a saved model says."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

from hft_core.data import as_label, is_missing_word
from hft_core.errors import did_you_mean
from hft_core.head import RowError

_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\u3164\uffa0]")
"""Characters without a glyph that are no format characters (category Cf): joiners, fillers, variation selectors."""
_WHOLE = re.compile(r"([+-]?\d+)\.0+")
YES, NO = ("yes", "y", "true", "t", "1", "on"), ("no", "n", "false", "f", "0", "off")
MARKS = (";", "|", ",", "/", "+", "&", "\t")
"""What may stand between the labels of a row."""
FEW = 20
"""So few rows may well have a label each."""


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names as labels of rows are read. Raises `ValueError` for a blank one and for one given twice."""
    labels = tuple(map(as_label, names))
    for i, label in enumerate(labels):
        if not label:
            raise ValueError(f"name {i + 1} is blank")
        if label in labels[:i]:
            raise ValueError(f"the name '{label}' is given twice (names {labels.index(label) + 1} and {i + 1})")
    return labels


LabelNames = Annotated[tuple[str, ...], AfterValidator(_distinct)]
"""The type of an option that names labels in the order of their ids: none blank, and none given twice."""


def in_order(labels: Iterable[str]) -> list[str]:
    """Sort numbers by their value, so that 2 comes before 10, and all other labels after them by their text.

    The order is total: it depends on no order of `labels`, so that it is the same in every process.
    """
    return sorted(labels, key=_key)


def _key(label: str) -> tuple[int, float, str]:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (1, 0.0, label) if math.isnan(number) else (0, number, label)  # NaN compares with nothing


def first_rows(names_by_row: Iterable[Iterable[str]]) -> dict[str, int]:
    """Return the labels of all rows, with the index of the first row that has each."""
    found: dict[str, int] = {}
    for i, names in enumerate(names_by_row):
        for name in names:
            found.setdefault(name, i)
    return found


def refuse_alike(found: Mapping[str, int], column: str, *, named: Iterable[str] = ()) -> None:
    """Raise `RowError` for two labels that a reader cannot tell apart, and for one without a visible character.

    Labels are alike if they differ only by invisible characters, by their Unicode form (NFKC) or blanks, or as 1 and
    1.0 or true and True do. `found`: the labels, and a row that has each; those in `named` were meant to differ.
    """
    meant = set(named)
    by_look: dict[str, str] = {}
    for label, row in found.items():
        look = _look(label)
        if not look:
            raise RowError(row, f"column '{column}' holds the label {label!a}, which has no visible character")
        other = by_look.setdefault(look, label)
        if other != label and not {label, other} <= meant:
            raise RowError(
                row,
                f"column '{column}' holds the label {label!a}, which looks like the label {other!a} of "
                "other rows and would be another class; expected one spelling, or both named in 'labels'",
            )


def oddities(labels: Sequence[str], column: str) -> list[str]:
    """Return what is odd about labels that are used as they are: a line for each kind, with the labels."""
    found = {
        "differ only in upper and lower case, and are classes of their own": _alike(labels, str.casefold),
        "differ only in hyphens, underscores and blanks, and are classes of their own": _alike(labels, _without_joints),
        "are equal numbers, and are classes of their own": _alike(labels, _number),
        "say yes or no in several ways, and are classes of their own": _yes_and_no(labels),
        "mix the letters of two alphabets in a word": [repr(label) for label in labels if _mixes_alphabets(label)],
        "are what programs write for a missing value, and are classes here": [
            repr(label) for label in labels if is_missing_word(label)
        ],
    }
    return [f"column '{column}': the labels {_some(names)} {what}" for what, names in found.items() if names]


def joined(labels: Sequence[str]) -> str:
    """Describe labels that are made of other ones, as those of rows with several labels are; empty without any."""
    known = set(labels)
    for mark in MARKS:
        found = [x for x in labels if mark in x and known.issuperset(part.strip() for part in x.split(mark))]
        if found:
            return (
                f"the labels {_some([repr(label) for label in found])} are other labels joined by {mark!r}, and are "
                f"classes of their own; the head 'multilabel' takes several labels a row (separator: {mark!r})"
            )
    return ""


def own_labels(labels: Sequence[str], rows: int) -> str:
    """Describe labels of which most are those of one row only; empty for others. `rows`: how many there are."""
    if rows < FEW or 2 * len(labels) <= rows:
        return ""
    return (
        f"{rows} rows have {len(labels)} labels, most of them in one row only, from which no class is learned: is this "
        "column a number or a name of the row?"
    )


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


def _number(label: str) -> str:
    try:
        return repr(float(label))
    except ValueError:
        return ""


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


def _look(label: str) -> str:
    """Return what a reader sees of a label."""
    text = "".join(c for c in unicodedata.normalize("NFKC", label) if unicodedata.category(c) != "Cf")
    text = " ".join(_INVISIBLE.sub("", text).split())
    if whole := _WHOLE.fullmatch(text):
        return whole[1]
    return text.lower() if text.lower() in ("true", "false") else text


def unknown(what: str, label: str, labels: Sequence[str]) -> str:
    """Describe a `label` that is none of `labels`."""
    return (
        f"{what} the unknown label '{label}'; expected one of the {len(labels)} labels of the training rows."
        f"{did_you_mean(label, labels)}"
    )


def ids_of(labels: Sequence[str]) -> dict[str, int]:
    """Return the id of each label: its place."""
    return {label: i for i, label in enumerate(labels)}


def config_of(labels: Sequence[str]) -> dict[str, Any]:
    """Return the labels in the words of transformers' configurations."""
    return {"id2label": dict(enumerate(labels)), "label2id": ids_of(labels)}
