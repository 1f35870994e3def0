"""Read jsonl files: one JSON object per line."""

from __future__ import annotations

from hft_core.data.readers.json_record import as_record, parse
from hft_core.data.readers.lines import numbered_lines, open_bytes
from hft_core.data.readers.records import AnyRecords, Record, only_good, pack
from hft_core.data.rows import Rows, Source
from hft_core.errors import DataError


def read(path: str) -> Rows:
    """Read a file of one object per line, skipping blank lines. Raises `DataError`."""
    return pack(only_good(records(path)), Source(path, "line"))


def records(path: str, after: int = 0) -> AnyRecords:
    """Yield the objects behind line `after`. Raises `DataError` for a file that cannot be read as text."""
    with open_bytes(path) as file:
        for number, line in numbered_lines(path, file, after=after):
            if line.strip():
                yield number, _record(line, f"{path}, line {number}")


def _record(line: str, place: str) -> Record | DataError:
    try:
        return as_record(parse(line.rstrip("\r\n"), place), place)
    except DataError as error:
        return error
