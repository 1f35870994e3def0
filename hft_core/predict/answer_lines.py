"""Put the answers of a run beside the rows that they are for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from hft_core.data.rows import Rows

ROWS_AT_ONCE = 10_000
"""Rows in memory as Python values."""


def with_input(rows: Rows, lines: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield each row's columns with its answer. A column that has the name of a key of the answer is called
    `input_NAME`."""
    cells = (
        dict(zip(columns, row, strict=True))
        for _, columns in rows.batches(ROWS_AT_ONCE)
        for row in zip(*columns.values(), strict=True)
    )
    for row, line in zip(cells, lines, strict=True):
        taken = {*line, *row}
        free = {name: _free_name(name, taken) if name in line else name for name in row}
        yield {**{free[name]: value for name, value in row.items()}, **line}


def lines_of(by_task: Mapping[str, Iterable[dict[str, Any]]], *, several: bool) -> list[dict[str, Any]]:
    """Return a line for each row: its answers by task where there are `several`, and otherwise the answer."""
    if not several:
        (answers,) = by_task.values()
        return list(answers)
    return [dict(zip(by_task, row, strict=True)) for row in zip(*by_task.values(), strict=True)]


def _free_name(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"input_{name}"
    return name
