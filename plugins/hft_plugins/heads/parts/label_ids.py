"""Give labels their ids: their order, which are alike, how an unknown one is reported, and what a saved model says."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

from hft_core.data import as_label
from hft_core.errors import did_you_mean
from hft_core.head import RowError

_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\u3164\uffa0]")
"""Characters without a glyph that are no format characters (category Cf): joiners, fillers, variation selectors."""
_WHOLE = re.compile(r"([+-]?\d+)\.0+")


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
