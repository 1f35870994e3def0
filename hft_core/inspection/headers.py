"""Recognize csv and tsv files whose header is one cell, or whose first line is a row like the others."""

from __future__ import annotations

from hft_core.data.cells import as_label
from hft_core.data.rows import Source
from hft_core.errors import DataError
from hft_core.inspection.column_profile import ColumnProfile, word_count
from hft_core.inspection.proposal import Table

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
SENTENCE = 3
"""A name of so many words, where another column is named like one of its values, is a text."""


def refuse(table: Table, source: Source) -> None:
    """Raise `DataError` for a header that gives no columns, or is none. Files of other formats have no header."""
    if not source.name.lower().endswith(SUFFIXES):
        return
    first = table.columns[0].name
    if first.startswith("sep="):
        raise DataError(f"{source.name}: the first line is Excel's {first!r}, expected the header: take it out")
    if len(table.columns) == 1 and any(mark in first for mark in ",;|\t"):
        raise DataError(
            f"{source.name}: the header {first!r} is a single cell: cells are separated by commas in "
            "csv, by tabs in tsv"
        )
    texts = [c for c in table.columns if c.kind == "text" and word_count(c.name) >= SENTENCE]
    named = [column for column in table.columns if _is_named_like_a_value(column)]
    if texts and named:
        raise DataError(
            f"{source.name}: the first line ({texts[0].name[:40]!r}, {named[0].name!r}) looks like a row, expected a "
            "header with the names of the columns above it"
        )


def _is_named_like_a_value(column: ColumnProfile) -> bool:
    if column.kind == "number":
        return column.name.strip("+-").replace(".", "", 1).isdecimal()
    return column.kind == "label" and column.name in map(as_label, column.present)
