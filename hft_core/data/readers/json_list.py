"""Read json files: one list of objects."""

from __future__ import annotations

from hft_core.data.readers.json_record import as_record, kind, parse
from hft_core.data.readers.lines import read_text
from hft_core.data.readers.records import NumberedRecords, pack
from hft_core.data.rows import Rows, Source
from hft_core.errors import DataError


def read(path: str) -> Rows:
    """Read a list of objects. Raises `DataError`."""
    return pack(_records(path), Source(path, "row"))


def _records(path: str) -> NumberedRecords:
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path}: the file is empty, expected a list of objects")
    records = parse(text, path)
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a list of objects, found {kind(records)}")
    for number, record in enumerate(records, start=1):
        yield number, as_record(record, f"{path}, row {number}")
