"""Read the rows of a file one by one, from any row on, in memory that does not grow with the file."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from hft_core.data.readers import Quoting, delimited, json_lines, parquet, txt
from hft_core.data.readers.lines import read_text
from hft_core.data.readers.records import AnyRecords
from hft_core.errors import DataError

Unit = Literal["row", "line", "file"]

LINES: dict[str, Callable[[str, int], AnyRecords]] = {"txt": txt.lines, "jsonl": json_lines.records}
CELLS: dict[str, Callable[..., AnyRecords]] = {"csv": delimited.csv_records, "tsv": delimited.tsv_records}
FORMATS = (*LINES, *CELLS, "parquet")
"""The formats that can be read so; all but parquet also gzipped."""


@dataclass(frozen=True)
class RowReader:
    """Reads the rows of a file of one of `FORMATS`."""

    path: str
    format: str
    row: Literal["line", "file"] = "line"
    """The unit of a row, for txt."""
    quoting: Quoting = "minimal"
    """For csv and tsv."""

    @property
    def unit(self) -> Unit:
        """What rows are counted in."""
        if self.format in LINES:
            return "file" if self._whole else "line"
        return "row"

    @property
    def _whole(self) -> bool:
        return self.format == "txt" and self.row == "file"

    def records(self, columns: Collection[str], after: int = 0) -> AnyRecords:
        """Yield the rows behind number `after` with their numbers, and what is wrong in the place of one that cannot be
        read. Of a parquet file, only `columns` are read. Raises `DataError` where nothing can be read any more."""
        if self._whole:
            return iter([(1, {"text": read_text(self.path)})][after:])
        if self.format in LINES:
            return LINES[self.format](self.path, after)
        if self.format == "parquet":
            return parquet.records(self.path, columns, after)
        every = CELLS[self.format](self.path, quotes=self.quoting == "minimal")
        return ((number, record) for number, record in every if number > after)

    def first(self, columns: Collection[str]) -> dict[str, Any]:
        """Return the first row, with the names of all columns. Raises `DataError` if there is none, or it cannot be
        read."""
        _, record = next(iter(self.records(columns)), (0, None))
        if record is None:
            raise DataError(f"{self.path}: no data in it, expected at least one {self.unit}")
        if isinstance(record, DataError):
            raise record
        names = parquet.columns_of(self.path) if self.format == "parquet" else record
        return {name: record.get(name) for name in names}
