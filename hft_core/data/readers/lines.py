"""Read files as bytes, lines or text."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from hft_core.data.readers import gzip_stream
from hft_core.errors import DataError
from hft_core.file_guard import open_regular

LINE_BYTES = 256 << 20
"""A longer line is refused: a file without line feeds would fill the memory. Whole corpora on one line have 100 MB."""
FILE_BYTES = 4 << 30
"""A larger file is not read at once."""


@contextmanager
def open_bytes(path: str) -> Iterator[BinaryIO]:
    """Open a file, decompressed if its name ends in .gz. Raises `DataError`, also for errors while reading."""
    try:
        with gzip_stream.open_gzip(path) if path.lower().endswith(".gz") else open_regular(path) as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def numbered_lines(path: str, file: BinaryIO, *, limit: int | None = None, after: int = 0) -> Iterator[tuple[int, str]]:
    """Yield the lines behind line `after`, with their line ends, and their numbers from 1.

    Only a line feed ends a line, since a text may contain Unicode's other line separators. Raises `DataError` for a
    line that is not UTF-8, or longer than `limit` bytes (`LINE_BYTES` when left out).
    """
    limit = limit or LINE_BYTES
    for number, line in enumerate(iter(lambda: file.readline(limit + 1), b""), start=1):
        if len(line) > limit:
            raise DataError(f"{path}, line {number}: longer than {limit >> 20} MiB, expected lines of at most that")
        if number > after:
            yield number, _decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, path, number)


def read_text(path: str) -> str:
    """Read a whole file, which may be one line. Raises `DataError`, also for one of more than `FILE_BYTES`."""
    parts, left = [], FILE_BYTES
    with open_bytes(path) as file:
        for _, line in numbered_lines(path, file, limit=FILE_BYTES):
            parts.append(line)
            left -= len(line)
            if left < 0:
                raise DataError(f"{path}: larger than {FILE_BYTES >> 20} MiB, expected a file that is read at once")
    return "".join(parts)


def _decode(line: bytes, path: str, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1}); convert "
            f"the file, for instance: iconv -f OLD_ENCODING -t UTF-8 (UTF-16, GB18030 and LATIN1 are frequent ones)"
        ) from None
