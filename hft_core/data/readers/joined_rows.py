"""Recognize rows of a csv or tsv file that two stray quotes made the text of one cell."""

from __future__ import annotations

from collections.abc import Sequence

from hft_core.errors import DataError

MAX_VALUES = 1000
"""A column with more different values is not one of classes."""
MAX_LENGTH = 100
"""Characters of a class's name, at most."""


class _Values:
    """What the cells of a column have in common."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._numbers = True

    def add(self, cell: str) -> None:
        """Take note of a cell."""
        if len(self._seen) <= MAX_VALUES and len(cell) <= MAX_LENGTH:
            self._seen.add(cell)
        self._numbers = self._numbers and _is_number(cell)

    def holds(self, value: str) -> bool:
        """Return whether another row has this value, in a column of few values."""
        return len(self._seen) <= MAX_VALUES and value in self._seen

    def is_number(self, value: str) -> bool:
        """Return whether `value` and all cells are numbers."""
        return self._numbers and _is_number(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class JoinedRows:
    """Collects the rows of a file with a cell of several lines, each of which has the form of a row.

    Whether they are rows is known once all rows were seen: a line of a text may have as many commas as a row, and does
    not have a class of the file where a row has it.
    """

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._columns: list[_Values] = []
        self._suspects: list[tuple[str, int, list[list[tuple[int, str]]]]] = []

    def see(self, place: str, record: Sequence[str]) -> None:
        """Take note of a row."""
        if not self._columns:
            self._columns = [_Values() for _ in record]
        joined = [i for i, cell in enumerate(record) if "\n" in cell and self._delimiter in cell]
        lines = {i: _lines(record[i], i, len(record), self._delimiter) for i in joined}
        self._suspects += [(place, i, found) for i, found in lines.items() if found]
        if not any(lines.values()):
            for values, cell in zip(self._columns, record, strict=True):
                values.add(cell)

    def refuse(self) -> None:
        """Raise `DataError` for the first cell whose lines are rows of the file."""
        for place, column, lines in self._suspects:
            whole = [line for line in lines if len(line) > 1]
            of_class = [any(self._columns[i].holds(value) for i, value in line) for line in whole]
            of_number = [any(self._columns[i].is_number(value) for i, value in line) for line in whole]
            dense = all(value and value == value.strip() for line in lines for _, value in line)
            enough = 2 if self._delimiter == "\t" else 4  # lines of a text seldom hold a tab
            if whole and (all(of_class) or (len(lines) > 2 and all(of_number)) or (len(lines) >= enough and dense)):
                self._refuse(place, column, len(lines))

    def _refuse(self, place: str, column: int, lines: int) -> None:
        raise DataError(
            f"{place}: cell {column + 1} is in quotes and holds {lines} lines with the cells of further rows, expected "
            f"one row (a quote that belongs to a text is doubled, in a cell in quotes; where quotes are only text, "
            f"set quoting: none)"
        )


def _lines(cell: str, column: int, width: int, delimiter: str) -> list[list[tuple[int, str]]]:
    """Return the (column, value) pairs of each line of a cell, if all lines have the form of rows.

    The first line begins in `column`, and the last one ends there.
    """
    lines = [line.rstrip("\r") for line in cell.split("\n")]
    found = []
    for i, line in enumerate(lines):
        values = line.split(delimiter)
        start = column if i == 0 else 0
        end = column + 1 if i == len(lines) - 1 else width
        if len(values) != end - start and line:
            return []
        if line:
            found.append([(start + k, value) for k, value in enumerate(values)])
    return found
