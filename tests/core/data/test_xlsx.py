"""Excel workbooks as data."""

from __future__ import annotations

import datetime as dt
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hft_core.data import files
from hft_core.data.readers import read_file, xlsx
from hft_core.errors import DataError

openpyxl = pytest.importorskip("openpyxl")

HEADER = ["text", "label"]
NAMESPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def workbook(folder: Path, *rows: list[Any], **sheets: list[list[Any]]) -> Any:
    """A workbook of these rows, and of those in further sheets; `save` writes it."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for name, more in sheets.items():
        sheet = book.create_sheet(name)
        for row in more:
            sheet.append(row)
    return book


def saved(book: Any, folder: Path) -> str:
    path = folder / "rows.xlsx"
    book.save(path)
    return str(path)


def test_values_keep_their_types_and_rows_the_numbers_that_excel_shows(tmp_path: Path) -> None:
    day = dt.datetime(2026, 5, 1)
    rows = [[], HEADER, ["a", "001"], [None, None], ["b", 2], ["c", day], ["d", day.replace(hour=9)], ["e", True]]
    found = read_file(saved(workbook(tmp_path, *rows), tmp_path), "xlsx", "line")
    assert found.columns == HEADER
    assert found["text"] == ["a", "b", "c", "d", "e"]
    assert found["label"] == ["001", 2, "2026-05-01", "2026-05-01T09:00:00", True]
    assert [found.where(i)[-5:] for i in range(3)] == ["row 3", "row 5", "row 6"]


def test_a_recipe_names_the_sheet_where_several_have_cells(tmp_path: Path) -> None:
    path = saved(workbook(tmp_path, HEADER, ["a", "x"], more=[HEADER, ["b", "y"]], empty=[]), tmp_path)
    with pytest.raises(
        DataError, match=r"2 sheets have cells \('Sheet', 'more'\); name one of them by the key 'sheet'"
    ):
        files.read([path], None, "line", task="topic")
    assert files.read([path], None, "line", task="topic", sheet="more")["text"] == ["b"]
    with pytest.raises(DataError, match=r"there is no sheet 'moer'\. Did you mean 'more'\?"):
        files.read([path], None, "line", task="topic", sheet="moer")
    with pytest.raises(DataError, match="sheet is for xlsx files, found csv"):
        read_file(path, "csv", "line", sheet="more")


def test_hidden_rows_are_read_and_said(tmp_path: Path) -> None:
    book = workbook(tmp_path, HEADER, ["a", "x"], ["b", "y"])
    book.active.row_dimensions[3].hidden = True
    found = read_file(saved(book, tmp_path), "xlsx", "line")
    assert found["text"] == ["a", "b"]
    assert found.notes[0].endswith("1 rows of the sheet 'Sheet' that are hidden or filtered out are read as well")


def merged(book: Any) -> None:
    book.active.merge_cells("B2:B3")


@pytest.mark.parametrize(
    ("rows", "change", "says"),
    [
        ([["a", "x"], ["b", "y"]], merged, "the cells B2:B3 are merged, expected a value in each cell"),
        ([["a", "#N/A"]], None, "row 2: the cell B2 is the error #N/A, expected a value"),
        ([["a", "=A2"]], None, "row 2: the value of the formula in B2 was not saved with the workbook"),
        ([["a", "x", "z"]], None, "row 2: the cell C2 has no column name in the header"),
        ([], None, "no data in it, expected at least one row"),
    ],
)
def test_what_is_no_table_is_refused(rows: list[list[Any]], change: Any, says: str, tmp_path: Path) -> None:
    book = workbook(tmp_path, HEADER, *rows)
    if change is not None:
        change(book)
    with pytest.raises(DataError, match=says):
        read_file(saved(book, tmp_path), "xlsx", "line")


def test_a_column_twice_in_the_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1: the header has the column 'text' twice"):
        read_file(saved(workbook(tmp_path, ["text", "text"], ["a", "b"]), tmp_path), "xlsx", "line")


def test_a_workbook_that_explodes_or_is_damaged_is_refused(tmp_path: Path) -> None:
    """An entity that stands for ten of another, nine times; and parts of other bytes."""
    good = saved(workbook(tmp_path, HEADER, ["a", "x"]), tmp_path)
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    cell = '<c r="A1" t="inlineStr"><is><t>&e9;</t></is></c>'
    sheet = f'<worksheet xmlns="{NAMESPACE}"><sheetData><row r="1">{cell}</row></sheetData></worksheet>'
    bomb = f'<!DOCTYPE t [<!ENTITY e0 "ha">{entities}]>{sheet}'
    for name, content in (("xl/worksheets/sheet1.xml", bomb), ("xl/workbook.xml", "<workbook"), ("xl/styles.xml", "x")):
        path = tmp_path / "hostile.xlsx"
        with zipfile.ZipFile(good) as whole, zipfile.ZipFile(path, "w") as other:
            assert name in whole.namelist()
            assert name in whole.namelist()
            for part in whole.namelist():
                other.writestr(part, content if part == name else whole.read(part))
        with pytest.raises(DataError, match=r"hostile\.xlsx: cannot be read as an Excel workbook"):
            read_file(str(path), "xlsx", "line")


def test_other_files_and_large_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "rows.xlsx"
    other.write_text("text,label\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot be read as an Excel workbook \(\.xlsx\): File is not a zip file"):
        read_file(str(other), "xlsx", "line")
    path = saved(workbook(tmp_path, HEADER, ["a", "x"]), tmp_path)
    monkeypatch.setattr(xlsx, "UNPACKED_BYTES", 100)
    with pytest.raises(DataError, match="MiB decompressed, expected at most"):
        read_file(path, "xlsx", "line")
