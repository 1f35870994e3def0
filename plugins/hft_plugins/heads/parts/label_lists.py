"""Recognize lists of labels that are not lists of names: 0 and 1 for each label, and texts divided at another mark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from hft_core.head import RowError
from hft_plugins.heads.parts.label_oddities import MARKS, WORDS, made_of_others

ONES, ZEROS = ("1", "true"), ("0", "false")


def is_multi_hot(values: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether a row's values say yes or no to each of several labels."""
    return len(values) > 1 and all(v in (*ONES, *ZEROS) for v in values) and not set(values) & set(names)


def multi_hot_width(cells: Sequence[Sequence[str]], names: Sequence[str]) -> int:
    """Return the number of labels if all rows say yes or no to each of them; 0 if not.

    `names`: of the labels, if given. Rows of one length of 0 and 1 are lists of the labels 0 and 1 only if these are
    names of labels.
    """
    width = len(cells[0]) if cells else 0
    return width if all(len(values) == width and is_multi_hot(values, names) for values in cells) else 0


def unnamed(column: str, width: int, names: Sequence[str] | None) -> str:
    """Describe rows of 0 and 1 whose labels have no names, or not as many."""
    found = f"column '{column}' holds a list of {width} times 0 or 1 in each row (multi-hot)"
    if names is not None:
        return f"{found}, but 'labels' has {len(names)} names; expected {width}"
    return f"{found}; expected the names of the labels in each row, or the option 'labels' with {width} names, in order"


def problem_of_multi_hot(values: Sequence[str], column: str, width: int) -> str:
    """Return what is wrong with a row that should have 0 or 1 for each of `width` labels; empty if nothing is."""
    odd = next((value for value in values if value not in (*ONES, *ZEROS)), None)
    if odd is not None:
        return f"column '{column}': found '{odd}', expected 0 or 1 for each label, as in the training rows"
    if len(values) != width:
        return f"column '{column}': found {len(values)} times 0 or 1, expected {width}, one for each label"
    return ""


def refuse_undivided(cells: Sequence[Sequence[str]], column: str, separator: str) -> None:
    """Raise `RowError` where no row has two labels, and parts of a label between other marks are labels too."""
    if any(len(values) > 1 for values in cells):
        return
    labels = {value: row for row, values in reversed(list(enumerate(cells))) for value in values}
    if labels and all(len(label) > 1 and set(label) <= set("01 ") and " " in label for label in labels):
        raise RowError(
            0,
            f"column '{column}' holds 0 and 1 divided at blanks, and the separator is '{separator}': set "
            "separator: ' ' and the names of all 'labels'",
        )
    widths = {len(label) for label in labels}
    if len(labels) > 1 and len(widths) == 1 and all(set(label) <= set("01") for label in labels) and widths != {1}:
        raise RowError(
            0,
            f"column '{column}' holds {widths.pop()} digits 0 or 1 in each row (multi-hot, without separators); "
            "expected the names of the labels in each row, or all 'labels' if these are names",
        )
    for mark in (mark for mark in (*MARKS, *WORDS) if mark != separator):
        if divided := _divided(list(labels), mark):
            first = min(divided, key=labels.__getitem__)
            raise RowError(
                labels[first],
                f"column '{column}' holds the label '{first}', whose parts at '{mark}' are labels too, and no row "
                f"holds the separator '{separator}': set separator: '{mark}', or name all 'labels' if it is one",
            )


def left_undivided(labels: Sequence[str], column: str, separator: str) -> Iterator[str]:
    """Yield a line for labels that another mark than the separator would divide into others."""
    for mark in (mark for mark in (*MARKS, *WORDS) if mark != separator):
        if found := made_of_others(labels, mark):
            names = ", ".join(map(repr, found[:5]))
            yield (
                f"column '{column}': the labels {names} are other labels joined by {mark!r}, and are labels of their "
                f"own, since the separator is {separator!r}"
            )


def _divided(labels: Sequence[str], mark: str) -> list[str]:
    """Return the labels that a mark divides into parts of labels, if they are most of those that have the mark."""
    parts = {label: [part.strip() for part in label.split(mark)] for label in labels if mark in label}
    if mark in WORDS:
        found = made_of_others(labels, mark)
    else:
        seen = Counter([*labels, *(part for of in parts.values() for part in of)])
        found = [label for label, of in parts.items() if all(seen[part] > 1 for part in of)]
    return found if len(found) * 2 >= len(parts) else []
