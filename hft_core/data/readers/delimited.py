"""Read csv and tsv files with a header; every cell is text, as written."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import Any

from hft_core.data.readers.joined_rows import JoinedRows
from hft_core.data.readers.lines import numbered_lines, open_bytes
from hft_core.data.readers.records import AnyRecords, only_good, pack
from hft_core.data.rows import Rows, Source
from hft_core.errors import DataError

CELL_LIMIT = 2**31 - 1
"""Characters in a csv cell; the `csv` module's default of 131,072 is shorter than some articles."""


def read_csv(path: str, *, quotes: bool = True) -> Rows:
    """Read a comma-separated file; without `quotes`, double quotes are text. Raises `DataError`."""
    return pack(only_good(_records(path, ",", "csv", quotes=quotes)), Source(path, "row"))


def read_tsv(path: str, *, quotes: bool = True) -> Rows:
    """Read a tab-separated file; without `quotes`, double quotes are text. Raises `DataError`."""
    return pack(only_good(_records(path, "\t", "tsv", quotes=quotes)), Source(path, "row"))


def csv_records(path: str, *, quotes: bool = True) -> AnyRecords:
    """Yield the records of a comma-separated file. Raises `DataError` where none can be read any more."""
    return _records(path, ",", "csv", quotes=quotes)


def tsv_records(path: str, *, quotes: bool = True) -> AnyRecords:
    """Yield the records of a tab-separated file. Raises `DataError` where none can be read any more."""
    return _records(path, "\t", "tsv", quotes=quotes)


def count(lines: Iterable[str], delimiter: str) -> int:
    """Count the records below the header, as far as the text is well-formed."""
    found = 0
    try:
        for record in _cells(lines, delimiter):
            found += bool(record)
    except csv.Error:  # whoever reads the records reports it
        pass
    return max(found - 1, 0)


def _cells(lines: Iterable[str], delimiter: str, *, quotes: bool = True) -> Any:
    # The limit is global to the process and checked for each row; raising it affects no other user.
    csv.field_size_limit(max(CELL_LIMIT, csv.field_size_limit()))
    if quotes:
        return csv.reader(lines, delimiter=delimiter, strict=True)
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)


def _records(path: str, delimiter: str, format: str, *, quotes: bool = True) -> AnyRecords:
    """Yield the records below the header, skipping blank lines."""
    with open_bytes(path) as file:
        cells = _cells((line for _, line in numbered_lines(path, file)), delimiter, quotes=quotes)
        header: list[str] = []
        joined = JoinedRows(delimiter)
        row, start = 0, 1
        try:
            for record in cells:
                place = f"{path}, row {row + 1} (line {start})"
                start = cells.line_num + 1
                if not record:
                    continue
                if not header:
                    header = _header(path, record)
                    continue
                row += 1
                if problem := _problem(header, record):
                    yield row, DataError(f"{place}: {problem}")
                    continue
                joined.see(place, record)
                yield row, dict(zip(header, record, strict=True))
        except csv.Error as error:
            problem = "a double quote is opened and never closed" if "unexpected end" in str(error) else str(error)
            place = f"row {row + 1}" if header else "the header"
            raise DataError(
                f"{path}, {place} (line {start}): not well-formed {format}: {problem} "
                f"(a cell with a double quote in it must be in double quotes, with the inner ones doubled; where "
                f"quotes are only text, set quoting: none)"
            ) from None
        joined.refuse()
        if not header:
            raise DataError(f"{path}: the file is empty, expected a header with the names of the columns")


def _problem(header: list[str], record: list[str]) -> str:
    """Return why the cells are no row below the header; empty if they are."""
    if len(record) != len(header):
        return (
            f"found {len(record)} cells, expected {len(header)} as in the header "
            f"(a cell with the separator or a line break in it must be in double quotes)"
        )
    if len(header) > 1 and header == _cleaned(record):
        return (
            "repeats the header, expected a row below it (files that are put together keep the header of the first "
            "one only)"
        )
    return ""


def _cleaned(record: list[str]) -> list[str]:
    """Return the cells as names of columns: without blanks around them, and without the mark that starts a file."""
    return [cell.removeprefix("\ufeff").strip() for cell in record]


def _header(path: str, record: list[str]) -> list[str]:
    header = _cleaned(record)
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: the header names the column {name!r} twice")
    return header
