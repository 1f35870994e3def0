"""Find texts that stand in several rows: in train and in test, in two tasks, with two labels.

Texts are compared as they are, without the blanks around them. Each is held as a hash of 64 bits: a million rows take
eight megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hft_core.data.cells import as_label
from hft_core.data.rows import CHECK_BATCH, Rows

if TYPE_CHECKING:
    from hft_core.head import Column

Splits = Mapping[str, Rows]


def warnings(columns: Mapping[str, Sequence[Column]], rows: Mapping[str, Splits]) -> list[str]:
    """Return one line for each split of evaluation with texts that are trained on, and for each train split with texts
    that have several labels.

    `columns`: what the head of each task reads; `rows`: by task and split.
    """
    trained = {task: _texts(columns[task], splits["train"]) for task, splits in rows.items()}
    found: list[str] = []
    for task, splits in rows.items():
        found += _several_labels(task, splits["train"], columns[task], trained[task])
        for split in ("dev", "test"):
            if split in splits:
                texts = _texts(columns[task], splits[split])
                found += _trained_on(task, split, splits[split], texts, trained)
                found += _exchanged(task, split, splits[split], columns[task], texts, trained[task])
    return found


def _trained_on(
    task: str, split: str, rows: Rows, texts: np.ndarray, trained: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """Yield a line for the texts that the task's own train rows have, and one for those that only other tasks train
    on."""
    own = np.isin(texts, trained[task])
    if own.any():
        yield (
            f"task '{task}': {own.sum()} of {len(rows)} {split} rows have the texts of train rows (first: "
            f"{rows.where(int(own.argmax()))}): the scores on {split} are of what was trained on"
        )
    also = {other: np.isin(texts, theirs) & ~own for other, theirs in trained.items() if other != task}
    others = [other for other, found in also.items() if found.any()]
    if others:
        found = np.logical_or.reduce([also[other] for other in others])
        yield (
            f"task '{task}': {found.sum()} of {len(rows)} {split} rows have texts that another task trains on "
            f"({', '.join(others)}; first: {rows.where(int(found.argmax()))})"
        )


def _exchanged(
    task: str, split: str, rows: Rows, columns: Sequence[Column], texts: np.ndarray, trained: np.ndarray
) -> Iterator[str]:
    """Yield a line for pairs of texts that train has in the other order only."""
    names = [column.name for column in columns if not column.target and rows.has(column.name)]
    if len(names) != 2 or any(column.kind != "text" or column.many for column in columns if column.name in names):
        return
    found = np.isin(_texts(columns, rows, exchanged=True), trained) & ~np.isin(texts, trained)
    if found.any():
        yield (
            f"task '{task}': {found.sum()} of {len(rows)} {split} rows have the two texts of train rows in the other "
            f"order (first: {rows.where(int(found.argmax()))})"
        )


def _several_labels(task: str, rows: Rows, columns: Sequence[Column], texts: np.ndarray) -> Iterator[str]:
    """Yield a line where train has a text with several labels."""
    column = next((c for c in columns if c.target and c.kind == "label" and c.classes and not c.many), None)
    if column is None or not rows.has(column.name):
        return
    labels = np.fromiter((hash(as_label(label)) for label in rows[column.name]), np.int64, len(rows))
    pairs = np.unique(np.stack([texts, labels]), axis=1)
    again, count = np.unique(pairs[0], return_counts=True)
    several = again[count > 1]
    if len(several):
        first = int(np.isin(texts, several).argmax())
        yield (
            f"task '{task}': {len(several)} texts of train have several labels in different rows (first: "
            f"{rows.where(first)}): no answer is right for all of them"
        )


def _texts(columns: Sequence[Column], rows: Rows, *, exchanged: bool = False) -> np.ndarray:
    """Return a hash of what the head reads of each row, `[rows]`; `exchanged`: with the columns in the other order."""
    names = [column.name for column in columns if not column.target and rows.has(column.name)]
    names = names[::-1] if exchanged else names
    if not names:
        return np.zeros(0, np.int64)
    hashes = (
        hash(tuple(cell.strip() if isinstance(cell, str) else repr(cell) for cell in cells))
        for _, batch in rows.batches(CHECK_BATCH, names)
        for cells in zip(*batch.values(), strict=True)
    )
    return np.fromiter(hashes, np.int64, len(rows))
