"""Read jsonl files: one JSON object per line."""

from __future__ import annotations

from hft_core.data.readers.json_record import as_record, parse
from hft_core.data.readers.lines import numbered_lines, open_bytes
from hft_core.data.readers.records import NumberedRecords, pack
from hft_core.data.rows import Rows, Source


def read(path: str) -> Rows:
    """Read a file of one object per line, skipping blank lines. Raises `DataError`."""
    return pack(_records(path), Source(path, "line"))


def _records(path: str) -> NumberedRecords:
    with open_bytes(path) as file:
        for number, line in numbered_lines(path, file):
            if line.strip():
                place = f"{path}, line {number}"
                yield number, as_record(parse(line.rstrip("\r\n"), place), place)
