"""Check rows against a head's columns: each problem is one error that names the first row that has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hft_core.data.cells import expected, problem
from hft_core.data.readers.annotations.recognize import export_format
from hft_core.data.rows import CHECK_BATCH, Rows
from hft_core.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from hft_core.head import Column


def check(
    rows: Rows,
    columns: Sequence[Column],
    *,
    task: str,
    split: str | None = None,
    need_targets: bool = True,
    of_recipe: bool = True,
) -> None:
    """Raise `DataError` for the first row that does not fit `columns`, with the count of further bad rows.

    Without `need_targets`, target columns are not checked: rows to predict on may lack them. `of_recipe`: see
    `need_column`.
    """
    wanted = [column for column in columns if need_targets or not column.target]
    _refuse_target_as_input(wanted, task)
    for column in wanted:
        why = f"{expected(column)} in each row"
        need_column(rows, column.name, why, task=task, split=split, of_recipe=of_recipe)

    def first_problem(row: Mapping[str, Any]) -> str:
        problems = ((column.name, problem(row[column.name], column)) for column in wanted)
        return next((f"column {name!r}: {text}" for name, text in problems if text), "")

    check_each(rows, first_problem, [column.name for column in wanted], task=task, split=split)


def _refuse_target_as_input(columns: Sequence[Column], task: str) -> None:
    """Raise `DataError` for labels or numbers that are also what they are predicted from."""
    inputs = {column.name for column in columns if not column.target}
    both = next((c.name for c in columns if c.target and c.kind != "text" and c.name in inputs), None)
    if both is not None:
        raise DataError(
            f"task '{task}': column {both!r} is both what is read and what is predicted, expected two columns"
        )


def check_each(
    rows: Rows, check_row: Callable[[Mapping[str, Any]], str], columns: Iterable[str], *, task: str, split: str | None
) -> None:
    """Raise `DataError` for the first row for which `check_row` (a head's `check`, for instance) returns a problem.

    `check_row` gets a row's values of `columns`.
    """
    first, bad = "", 0
    names = list(dict.fromkeys(columns))
    for indices, batch in rows.batches(CHECK_BATCH, names):
        for i, values in zip(indices, zip(*batch.values(), strict=True), strict=True):
            row_problem = check_row(dict(zip(names, values, strict=True)))
            if row_problem:
                bad += 1
                first = first or f"{rows.where(i)}: {row_problem}"
    if bad:
        more = f" (and {bad - 1} more row{'s' if bad > 2 else ''})" if bad > 1 else ""
        raise DataError(f"{_title(task, split)}: {first}{more}")


def need_column(
    rows: Rows, name: str, why: str, *, task: str, split: str | None = None, of_recipe: bool = True
) -> None:
    """Raise `DataError`, with the existing columns and the nearest one, unless `name` can be read.

    `of_recipe`: whether a recipe names the rows' files, and may say their format.
    """
    existing = rows.columns
    if rows.has(name):
        return
    hint = nearest(name, existing)
    if len(existing) == 1 and any(mark in existing[0] for mark in ";|\t"):
        hint = " The header is a single cell: cells are separated by commas in csv, by tabs in tsv."
    source = rows.sources[0]
    if source.unit != "memory" and (tool := export_format(source.name)) is not None:
        hint = (
            f" It is an export of an annotation tool: 'format: {tool}' reads it."
            if of_recipe
            else f" It is an export of an annotation tool ({tool}), which is read for training alone: give its items "
            f"as rows with the column {name!r}, csv or JSON lines."
        )
    where = "the data" if source.unit == "memory" else source.name
    columns = ", ".join(map(repr, existing))
    raise DataError(f"{_title(task, split)}: {where} has no column {name!r} ({why}); its columns are {columns}.{hint}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?`, or an empty string if no known name is near."""
    hint = did_you_mean(name, known)
    return hint if hint.startswith(" Did") else ""


def _title(task: str, split: str | None) -> str:
    return f"task '{task}'" + (f" ({split})" if split else "")
