"""Data to checked rows: `read` and `from_python` make `Rows`; `load` and `of_host` give the splits of one task."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from datasets import Dataset

from hft_core.data import splits
from hft_core.data.readers import SUFFIXES, read_file
from hft_core.data.rows import (
    Rows,
    Source,
    as_label,
    as_list,
    as_number,
    check,
    check_each,
    from_columns,
    join,
    nearest,
    need_column,
)
from hft_core.errors import DataError
from hft_core.recipe import schema

if TYPE_CHECKING:
    from hft_core.head import Column

__all__ = [
    "Rows",
    "as_label",
    "as_list",
    "as_number",
    "check",
    "check_each",
    "divide",
    "from_python",
    "load",
    "of_host",
    "read",
]


def load(
    name: str, data: schema.Data, head_columns: Sequence[Column], *, seed: int, labels_from: str | None, group: str = ""
) -> dict[str, Rows]:
    """The checked splits of task `name` (`train`, `dev`, `test`; one without rows is absent).

    `files` is split by `data.split`, stratified by the column `labels_from`; `train`, `dev` and `test` are taken as
    they are. Rows with equal values in the column `group` are kept together, in the split and by `max_rows`. Raises
    `DataError` for anything wrong with the files or their rows.
    """
    if data.files:
        rows = read(data.files, data.format, data.row, task=name)
        return divide(
            rows,
            data.split,
            head_columns,
            task=name,
            seed=seed,
            labels_from=labels_from,
            max_rows=data.max_rows,
            group=group,
        )
    parts = {}
    for split, paths in (("train", data.train), ("dev", data.dev), ("test", data.test)):
        if paths:
            parts[split] = read(paths, data.format, data.row, task=name)
            check(parts[split], head_columns, task=name, split=split)
    if group:
        need_column(parts["train"], group, "its equal values belong together", task=name, split="train")
    parts["train"] = _at_most(parts["train"], data.max_rows, seed, labels_from, group)
    return parts


def of_host(
    name: str, value: Any, head_columns: Sequence[Column], *, seed: int, labels_from: str | None, group: str = ""
) -> dict[str, Rows]:
    """The checked splits of task `name` from what a host passes in Python: one data set, to be split like `files` with
    the default shares, or a mapping of `train` (and `dev`, also called `validation`, and `test`) to data sets.

    `labels_from` and `group` as in `load`. Raises `DataError`.
    """
    if not isinstance(value, Mapping):
        rows = from_python(value, task=name)
        return divide(rows, schema.Split(), head_columns, task=name, seed=seed, labels_from=labels_from, group=group)
    named = {("dev" if split == "validation" else split): data for split, data in value.items()}
    if "train" not in named or len(named) < len(value) or not named.keys() <= set(splits.PARTS):
        given = ", ".join(map(repr, value)) or "none"
        raise DataError(
            f"the splits passed for task '{name}' are {given}; expected 'train', and 'dev' and 'test' beside it"
        )
    parts = {split: from_python(named[split], task=name) for split in splits.PARTS if split in named}
    for split, rows in parts.items():
        check(rows, head_columns, task=name, split=split)
    return parts


def divide(
    rows: Rows,
    split: schema.Split,
    head_columns: Sequence[Column],
    *,
    task: str,
    seed: int,
    labels_from: str | None,
    max_rows: int | None = None,
    group: str = "",
) -> dict[str, Rows]:
    """The rows, checked and split: what `load` does with `files`, for rows that are there already."""
    check(rows, head_columns, task=task)
    by = split.by or group or None
    reasons = (
        (split.by, "'by' of the split"),
        (labels_from, "the labels"),
        (group, "its equal values belong together"),
    )
    for column, why in reasons:
        if column:
            need_column(rows, column, why, task=task)
    labels = None if labels_from is None else [as_label(value) for value in rows[labels_from]]
    try:
        indices = splits.split(rows, split.dev, split.test, seed=seed, stratify=labels, by=by)
        if group and by != group:
            splits.refuse_torn(rows, indices, group, by=by)
    except DataError as error:
        raise DataError(f"task '{task}': {error}") from None
    parts = {part: rows.select(chosen) for part, chosen in indices.items() if chosen}
    parts["train"] = _at_most(parts["train"], max_rows, seed, labels_from, group)
    return parts


def read(paths: Sequence[str], format: str | None, row: Literal["line", "file"], *, task: str) -> Rows:
    """The rows of all files that `paths` (which may hold wildcards) name, in order; a file named twice is read once.

    The format is that of `hft_core.data.readers.SUFFIXES` unless `format` says otherwise; `row` is what makes a
    row of a txt file. Raises `DataError` for a file that is missing, empty, damaged, not UTF-8, or has other
    columns than the first.
    """
    parts: list[Rows] = []
    for path in dict.fromkeys(found for pattern in paths for found in _expand(pattern, task)):
        part = read_file(path, format or _format_of(path, task), row)
        if parts and set(part.columns) != set(parts[0].columns):
            odd = sorted(set(part.columns) ^ set(parts[0].columns))
            raise DataError(
                f"task '{task}': {parts[0].sources[0].name} and {path} differ in the columns "
                f"{', '.join(map(repr, odd))}, expected the same columns in all files of a task"
            )
        parts.append(part)
    return join(parts)


def from_python(value: Any, *, task: str) -> Rows:
    """Rows from a `datasets.Dataset`, a pandas DataFrame or a list of dicts (or `Rows`, as they are).

    Raises `DataError` when it is none of these, is empty, or holds what is not plain data.
    """
    if isinstance(value, Rows):
        return value
    if not isinstance(value, Dataset | pd.DataFrame) and not (
        isinstance(value, list) and all(isinstance(record, Mapping) for record in value)
    ):
        raise DataError(
            f"the rows of task '{task}' are a {type(value).__name__}, expected a datasets.Dataset (of one split), a "
            f"pandas.DataFrame or a list of dicts"
        )
    place = ([Source(task, "memory")], np.zeros(len(value), np.int32), np.arange(1, len(value) + 1))
    try:
        if isinstance(value, Dataset):
            rows = Rows(value.with_format(None), *place)
        else:
            rows = from_columns(_columns_of(value), *place)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"the rows of task '{task}' hold something that is not plain data: {error}") from None
    if len(rows) == 0:
        raise DataError(f"the rows of task '{task}' are empty, expected at least one row and one column")
    return rows


def _columns_of(value: pd.DataFrame | list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    if isinstance(value, list):
        names = dict.fromkeys(name for record in value for name in record)
        return {str(name): [_plain(record.get(name)) for record in value] for name in names}
    if len(set(map(str, value.columns))) < len(value.columns):
        raise ValueError("two columns have the same name")
    return {
        str(name): [None if empty else _plain(cell) for cell, empty in zip(cells, cells.isna(), strict=True)]
        for name, cells in value.astype(object).items()
    }


def _plain(value: Any) -> Any:
    """The value without numpy, and tuples as lists."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _at_most(rows: Rows, count: int | None, seed: int, labels_from: str | None, group: str) -> Rows:
    if count is None or count >= len(rows):
        return rows
    if group:
        return rows.select(splits.draw_groups(rows[group], count, seed=seed))
    labels = [""] * len(rows) if labels_from is None else [as_label(value) for value in rows[labels_from]]
    return rows.select(splits.draw(labels, count, seed=seed))


def _expand(pattern: str, task: str) -> list[str]:
    """The files that a path, which may hold wildcards, stands for."""
    pattern = os.path.expanduser(pattern)
    if os.path.exists(pattern):  # noqa: PTH110 (pathlib's raises for a long name); first, as a name may hold brackets
        return [pattern]
    if glob.has_magic(pattern):
        found = sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise DataError(f"task '{task}': no file matches {pattern!r}")
        return found
    folder = os.path.dirname(pattern) or "."
    beside = os.listdir(folder) if os.path.isdir(folder) else []
    raise DataError(f"task '{task}': there is no file {pattern!r}.{nearest(Path(pattern).name, beside)}")


def _format_of(path: str, task: str) -> str:
    if Path(path).is_dir():
        return "folder"
    suffix = Path(path.lower().removesuffix(".gz")).suffix
    if suffix not in SUFFIXES:
        raise DataError(
            f"task '{task}': {path} has the suffix '{suffix}', which names no format; expected one of "
            f"{', '.join(SUFFIXES)}, or the key 'format' beside it"
        )
    return SUFFIXES[suffix]
