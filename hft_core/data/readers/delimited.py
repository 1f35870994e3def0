"""Read csv and tsv files with a header; every cell is text, as written."""

from __future__ import annotations

import csv

from hft_core.data.readers.joined_rows import JoinedRows
from hft_core.data.readers.lines import numbered_lines, open_bytes
from hft_core.data.readers.records import NumberedRecords, pack
from hft_core.data.rows import Rows, Source
from hft_core.errors import DataError

CELL_LIMIT = 2**31 - 1
"""Characters in a csv cell; the `csv` module's default of 131,072 is shorter than some articles."""


def read_csv(path: str) -> Rows:
    """Read a comma-separated file. Raises `DataError`."""
    return pack(_records(path, ",", "csv"), Source(path, "row"))


def read_tsv(path: str) -> Rows:
    """Read a tab-separated file. Raises `DataError`."""
    return pack(_records(path, "\t", "tsv"), Source(path, "row"))


def _records(path: str, delimiter: str, format: str) -> NumberedRecords:
    """Yield the records below the header, skipping blank lines."""
    # The limit is global to the process and checked for each row; raising it affects no other user.
    csv.field_size_limit(max(CELL_LIMIT, csv.field_size_limit()))
    with open_bytes(path) as file:
        lines = (line for _, line in numbered_lines(path, file))
        cells = csv.reader(lines, delimiter=delimiter, strict=True)
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
                if len(record) != len(header):
                    raise DataError(
                        f"{place}: found {len(record)} cells, expected {len(header)} as in the header "
                        f"(a cell with the separator or a line break in it must be in double quotes)"
                    )
                if len(header) > 1 and header == _cleaned(record):
                    raise DataError(
                        f"{place}: repeats the header, expected a row below it (files that are put together keep the "
                        "header of the first one only)"
                    )
                joined.see(place, record)
                yield row, dict(zip(header, record, strict=True))
        except csv.Error as error:
            problem = "a double quote is opened and never closed" if "unexpected end" in str(error) else str(error)
            place = f"row {row + 1}" if header else "the header"
            raise DataError(
                f"{path}, {place} (line {start}): not well-formed {format}: {problem} "
                f"(a cell with a double quote in it must be in double quotes, with the inner ones doubled)"
            ) from None
        joined.refuse()
        if not header:
            raise DataError(f"{path}: the file is empty, expected a header with the names of the columns")


def _cleaned(record: list[str]) -> list[str]:
    """Return the cells as names of columns: without blanks around them, and without the mark that starts a file."""
    return [cell.removeprefix("\ufeff").strip() for cell in record]


def _header(path: str, record: list[str]) -> list[str]:
    header = _cleaned(record)
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: the header names the column {name!r} twice")
    return header
