"""Read a sheet of an Excel workbook (`.xlsx`): the first row that is not empty is the header.

A workbook is a zip file, which is unpacked in memory after the sizes of its parts were checked.
"""

from __future__ import annotations

import datetime as dt
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from hft_core.data.readers.records import NumberedRecords, pack
from hft_core.data.rows import Rows, Source
from hft_core.errors import DataError, did_you_mean
from hft_core.file_guard import open_regular

UNPACKED_BYTES = 1 << 30
"""A workbook of more than this, decompressed, is not read."""


def read(path: str, sheet: str | None = None) -> Rows:
    """Read the sheet of this name, or the only one with cells; a row's number is the one that Excel shows.

    Raises `DataError`, also for merged cells, errors (`#N/A`) and formulas whose value was not saved.
    """
    book = _opened(path, data_only=True)
    name = _sheet_name(path, book, sheet)
    hidden = sum(row.hidden for row in book[name].row_dimensions.values())
    rows = pack(_records(path, book[name]), Source(path, "row"))
    if not hidden:
        return rows
    return rows.noted(f"{path}: {hidden} rows of the sheet '{name}' that are hidden or filtered out are read as well")


def _opened(path: str, *, data_only: bool) -> Any:
    """Open a workbook with the values of its formulas, or with the formulas themselves."""
    try:
        import openpyxl  # an extra
    except ModuleNotFoundError:
        raise DataError(f"{path}: Excel files need the package openpyxl: pip install 'hft-core[xlsx]'") from None
    try:
        with open_regular(path) as file:
            _refuse_large(path, file)
            return openpyxl.load_workbook(file, data_only=data_only, keep_links=False)
    except DataError:
        raise
    except Exception as error:  # a damaged workbook makes openpyxl, zipfile and the XML parser raise anything
        raise DataError(
            f"{path}: cannot be read as an Excel workbook (.xlsx): {' '.join(str(error).split())}"
        ) from None


def _refuse_large(path: str, file: BinaryIO) -> None:
    size = sum(part.file_size for part in zipfile.ZipFile(file).infolist())
    if size > UNPACKED_BYTES:
        raise DataError(
            f"{path}: {size >> 20} MiB decompressed, expected at most {UNPACKED_BYTES >> 20}; export it as csv"
        )
    file.seek(0)


def _sheet_name(path: str, book: Any, wanted: str | None) -> str:
    names = [sheet.title for sheet in book.worksheets]
    if wanted is not None:
        if wanted not in names:
            raise DataError(f"{path}: there is no sheet {wanted!r}.{did_you_mean(wanted, names)}")
        return wanted
    filled = [sheet.title for sheet in book.worksheets if any(_rows(sheet))]
    if len(filled) > 1:
        raise DataError(
            f"{path}: {len(filled)} sheets have cells ({', '.join(map(repr, filled))}); name one of them by the key "
            "'sheet' beside it"
        )
    if not filled:
        raise DataError(f"{path}: no data in it, expected a sheet with a header and rows")
    return str(filled[0])


def _rows(sheet: Any) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield the rows that are not empty, and their numbers."""
    for number, cells in enumerate(sheet.iter_rows(), start=1):
        if any(cell.value is not None for cell in cells):
            yield number, cells


def _records(path: str, sheet: Any) -> NumberedRecords:
    rows = _rows(sheet)
    header = next(rows)
    columns = _columns(path, *header)
    merged = next((area for area in sheet.merged_cells.ranges if area.max_row > header[0]), None)
    if merged is not None:
        raise DataError(f"{path}: the cells {merged} are merged, expected a value in each cell of a row: unmerge them")
    formulas: Any = None
    for number, cells in rows:
        beyond = next((cell for cell in cells if cell.column not in columns and cell.value is not None), None)
        if beyond is not None:
            raise DataError(f"{path}, row {number}: the cell {beyond.coordinate} has no column name in the header")
        named = [(columns[cell.column], cell) for cell in cells if cell.column in columns]
        if formulas is None and any(cell.value is None for _, cell in named):
            formulas = _opened(path, data_only=False)[sheet.title]
        yield number, {name: _value(path, number, cell, formulas) for name, cell in named}


def _columns(path: str, number: int, cells: Sequence[Any]) -> dict[int, str]:
    """Return the names of the header by the cells' positions."""
    names = {cell.column: str(cell.value).strip() for cell in cells if cell.value is not None}
    twice = next((name for name in names.values() if not name or list(names.values()).count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}, row {number}: the header has the column {twice!r} twice, expected different names")
    return names


def _value(path: str, number: int, cell: Any, formulas: Any) -> Any:
    """Return a cell's value: text, a number, true or false; a date as text in ISO 8601; None where it is empty."""
    value = cell.value
    if cell.data_type == "e":
        raise DataError(f"{path}, row {number}: the cell {cell.coordinate} is the error {value}, expected a value")
    if value is None and formulas[cell.coordinate].data_type == "f":
        raise DataError(
            f"{path}, row {number}: the value of the formula in {cell.coordinate} was not saved with the workbook; "
            "open and save it in Excel or LibreOffice, or export it as csv"
        )
    if isinstance(value, dt.datetime):
        return (value.date() if value.time() == dt.time() else value).isoformat()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
