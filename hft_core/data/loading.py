"""Load a task's data: `read` and `from_python` return `Rows`; `load` and `of_host` return checked splits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hft_core.data import splits
from hft_core.data.cells import as_label, as_list, as_number
from hft_core.data.corpus import Corpus, check_size
from hft_core.data.files import read
from hft_core.data.from_python import from_python
from hft_core.data.readers import database
from hft_core.data.row_checks import check, check_each, need_column
from hft_core.data.rows import CHECK_BATCH, Rows
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

ALL = ""
"""In place of the name of a split: rows that are yet to be divided."""

ClassesOf = Callable[[Mapping[str, Any]], Collection[str]]
"""Returns the classes of a row, by its columns."""


def load(
    name: str,
    data: schema.Data,
    head_columns: Sequence[Column],
    *,
    seed: int,
    labels_from: str | None,
    group: str = "",
    classes_of: ClassesOf | None = None,
) -> dict[str, Rows]:
    """Load the checked splits of task `name` (`train`, `dev`, `test`; one without rows is absent).

    `files`, or the rows of one `sql` statement, are split by `data.split`, stratified by the column `labels_from`;
    `train`, `dev` and `test` are used as they are. Rows with equal values in the column `group` stay together, in the
    split and in `max_rows`. `classes_of` returns the classes of a row that may have several: the split and `max_rows`
    leave each of them in train. Of a stream, `train` is its first rows. Raises `DataError` for invalid files or rows.
    """
    parts = _read(name, data, head_columns)
    if ALL in parts:
        return divide(
            parts[ALL],
            data.split,
            head_columns,
            task=name,
            seed=seed,
            labels_from=labels_from,
            max_rows=data.max_rows,
            group=group,
            classes_of=classes_of,
        )
    for split, rows in parts.items():
        check(rows, head_columns, task=name, split=split)
    if group:
        need_column(parts["train"], group, "its equal values belong together", task=name, split="train")
    parts["train"] = _at_most(parts["train"], data.max_rows, seed, labels_from, group, head_columns, classes_of)
    return parts


def _read(name: str, data: schema.Data, head_columns: Sequence[Column]) -> dict[str, Rows]:
    """Read the rows by split, or as `ALL` where they are yet to be divided."""
    if data.sql is not None and data.database is not None:
        queries = {ALL: data.sql.rows, "train": data.sql.train, "dev": data.sql.dev, "test": data.sql.test}
        return {split: database.read(data.database, query, split) for split, query in queries.items() if query}
    named = {ALL: data.files, "train": data.train, "dev": data.dev, "test": data.test}
    first: dict[str, Rows] = {}
    if data.stream:
        first["train"] = Corpus.open(data, head_columns, task=name).sample()
        del named["train"]
        for split, paths in named.items():
            check_size(paths, task=name, split=split)
    return first | {
        split: read(paths, data.format, data.row, task=name, quoting=data.quoting, sheet=data.sheet)
        for split, paths in named.items()
        if paths
    }


def of_host(
    name: str,
    value: Any,
    head_columns: Sequence[Column],
    *,
    seed: int,
    labels_from: str | None,
    group: str = "",
    classes_of: ClassesOf | None = None,
) -> dict[str, Rows]:
    """Return the checked splits of task `name` from Python data passed by a host.

    `value` is one data set, split like `files` with the default shares, or a mapping of `train` (and `dev` or
    `validation`, and `test`) to data sets. `labels_from`, `group` and `classes_of` as in `load`. Raises `DataError`.
    """
    if not isinstance(value, Mapping):
        rows = from_python(value, task=name)
        return divide(
            rows,
            schema.Split(),
            head_columns,
            task=name,
            seed=seed,
            labels_from=labels_from,
            group=group,
            classes_of=classes_of,
        )
    by_split = {("dev" if split == "validation" else split): data for split, data in value.items()}
    if "train" not in by_split or len(by_split) < len(value) or not by_split.keys() <= set(splits.PARTS):
        given = ", ".join(map(repr, value)) or "none"
        raise DataError(
            f"the splits passed for task '{name}' are {given}; expected 'train', and 'dev' and 'test' beside it"
        )
    parts = {split: from_python(by_split[split], task=name) for split in splits.PARTS if split in by_split}
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
    classes_of: ClassesOf | None = None,
) -> dict[str, Rows]:
    """Check and split rows, as `load` does with `files`."""
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
        if split.by:
            splits.refuse_unknown_groups(rows, split.by)
        own = seed if split.seed is None else split.seed
        indices = splits.split(rows, split.dev, split.test, seed=own, stratify=labels, by=by)
        if group and by != group:
            splits.refuse_torn(rows, indices, group, by=by)
        if classes_of is not None:
            groups = None if by is None else rows[by]
            indices = splits.train_every_class(indices, _classes(rows, head_columns, classes_of), groups)
    except DataError as error:
        raise DataError(f"task '{task}': {error}") from None
    parts = {part: rows.select(chosen) for part, chosen in indices.items() if chosen}
    parts["train"] = _at_most(parts["train"], max_rows, seed, labels_from, group, head_columns, classes_of)
    return parts


def labels_in(row: Mapping[str, Any], columns: Sequence[Column]) -> set[str]:
    """Return the labels in the row's target columns with many labels each."""
    many = [column for column in columns if column.target and column.kind == "label" and column.many]
    return {as_label(value) for column in many for value in as_list(row[column.name], column)}


def _classes(rows: Rows, columns: Sequence[Column], classes_of: ClassesOf) -> list[frozenset[str]]:
    """Return the classes of each row; equal sets share memory."""
    names = [column.name for column in columns]
    known: dict[frozenset[str], frozenset[str]] = {}
    found = []
    for _, batch in rows.batches(CHECK_BATCH, names):
        for values in zip(*batch.values(), strict=True):
            classes = frozenset(classes_of(dict(zip(names, values, strict=True))))
            found.append(known.setdefault(classes, classes))
    return found


def _at_most(
    rows: Rows,
    count: int | None,
    seed: int,
    labels_from: str | None,
    group: str,
    columns: Sequence[Column],
    classes_of: ClassesOf | None,
) -> Rows:
    if count is None or count >= len(rows):
        return rows
    if group:
        return rows.select(splits.draw_groups(rows[group], count, seed=seed))
    if labels_from is None and classes_of is not None:
        return rows.select(splits.draw_of_all(_classes(rows, columns, classes_of), count, seed=seed))
    labels = [""] * len(rows) if labels_from is None else [as_label(value) for value in rows[labels_from]]
    return rows.select(splits.draw(labels, count, seed=seed))
