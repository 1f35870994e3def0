"""Read plain text files into the column `text`."""

from __future__ import annotations

from hft_core.data.readers.lines import numbered_lines, open_bytes, read_text
from hft_core.data.readers.records import NumberedRecords, pack
from hft_core.data.rows import Rows, Source


def read_lines(path: str) -> Rows:
    """Read each non-blank line as a row. Raises `DataError`."""
    return pack(lines(path), Source(path, "line"))


def read_file(path: str) -> Rows:
    """Read the whole file as one row. Raises `DataError`."""
    return pack(iter([(1, {"text": read_text(path)})]), Source(path, "file"))


def lines(path: str, after: int = 0) -> NumberedRecords:
    """Yield the non-blank lines behind line `after`. Raises `DataError`."""
    with open_bytes(path) as file:
        for number, line in numbered_lines(path, file, after=after):
            if line.strip():
                yield number, {"text": line.rstrip("\r\n")}
