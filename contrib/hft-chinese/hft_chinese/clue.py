"""Read the rows of the CLUE tasks from their files as CLUE publishes them (Xu et al. 2020, arXiv:2004.05986).

For programs that pass rows to a run themselves::

    rows = read("tnews", "data/tnews_public")
    hft_core.run(recipe, data={"topic": rows})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from hft_chinese import classes, spans
from hft_core.data import Rows, read_file
from hft_core.errors import DataError, did_you_mean

__all__ = ["TASKS", "Format", "Row", "read", "read_unlabelled"]

Row = dict[str, Any]

FILES = {"train": ("train.json", "train.50k.json"), "dev": ("dev.json",), "test": ("test.json",)}
"""The files of a split: the first that is there. OCNLI has its training rows in several sizes."""

BATCH = 10_000
"""Rows that are held as Python objects beside those that are made of them."""


class Format(Protocol):
    """The format of the rows of one task, and how they are converted."""

    def known(self, folder: Path) -> Mapping[str, str]:
        """Return the names of the labels of the data in `folder`."""

    def unlabelled(self, row: Mapping[str, Any]) -> Row:
        """Return the row without its label. Raises `ValueError`."""

    def labelled(self, row: Mapping[str, Any], known: Mapping[str, str]) -> Row | None:
        """Return the row with its label; None for one that is not used for training. Raises `ValueError`."""


TASKS: dict[str, Format] = {**classes.TASKS, "cluener": spans.Spans()}
"""The formats by task."""


def read(task: str | Format, folder: str | Path) -> dict[str, list[Row]]:
    """Return the rows of a task by split (`train`, `dev`, and `test` where the test rows have labels; CLUE's do not).

    Rows keep CLUE's fields. Those of classes gain `label_desc`, what the label is called, and `label_zh`, the same in
    Chinese; those of CLUENER have `words` and `tags` instead of their `label`. Rows on which the annotators of CMNLI
    and OCNLI did not agree (`-`) are left out. `task` may be a `Format` of your own, or one with other options:
    `Spans(overlaps="longest")`.

    Raises `DataError` with the file and line of the first row that is not as the task writes it.
    """
    form, place = _format(task), Path(folder)
    known = form.known(place)
    splits: dict[str, list[Row]] = {}
    for split, names in FILES.items():
        path = next((place / name for name in names if (place / name).is_file()), None)
        if path is None and split != "test":
            raise DataError(_missing(place, names[0]))
        rows = None if path is None else read_file(str(path), "jsonl", "line")
        if rows is not None and (split != "test" or rows.has("label")):
            splits[split] = _converted(rows, lambda row: form.labelled(row, known))
    return splits


def read_unlabelled(task: str | Format, path: str | Path) -> list[Row]:
    """Return the rows of one file without their labels, with their `id`, to predict on. Raises `DataError`."""
    return _converted(read_file(str(path), "jsonl", "line"), _format(task).unlabelled)


def _format(task: str | Format) -> Format:
    if not isinstance(task, str):
        return task
    if task not in TASKS:
        raise DataError(f"unknown CLUE task '{task}'.{did_you_mean(task, TASKS)}")
    return TASKS[task]


def _missing(folder: Path, name: str) -> str:
    if not folder.is_dir():
        return f"{folder}: no such folder; expected one with train.json and dev.json, as CLUE publishes them"
    hint = did_you_mean(name, (entry.name for entry in folder.iterdir()))
    return f"{folder}: no {name} in it, expected train.json and dev.json, as CLUE publishes them.{hint}"


def _converted(rows: Rows, convert: Callable[[Mapping[str, Any]], Row | None]) -> list[Row]:
    """Convert each row. Raises `DataError` that names the row's place."""
    made: list[Row] = []
    for indices, columns in rows.batches(BATCH):
        for i, cells in zip(indices, zip(*columns.values(), strict=True), strict=True):
            try:
                row = convert({name: cell for name, cell in zip(columns, cells, strict=True) if cell is not None})
            except ValueError as error:
                raise DataError(f"{rows.where(i)}: {error}") from None
            if row is not None:
                made.append(row)
    return made
