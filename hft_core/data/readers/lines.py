"""Read files as bytes, lines or text."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hft_core.data.readers import gzip_stream
from hft_core.errors import DataError


@contextmanager
def open_bytes(path: str) -> Iterator[BinaryIO]:
    """Open a file, decompressed if its name ends in .gz. Raises `DataError`, also for errors while reading."""
    try:
        with gzip_stream.open_gzip(path) if path.lower().endswith(".gz") else Path(path).open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def numbered_lines(path: str, file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield the lines, with their line ends, and their numbers from 1.

    Only a line feed ends a line, since a text may contain Unicode's other line separators. Raises `DataError` for a
    line that is not UTF-8.
    """
    for number, line in enumerate(file, start=1):
        yield number, _decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, path, number)


def read_text(path: str) -> str:
    """Read a whole file. Raises `DataError`."""
    with open_bytes(path) as file:
        return "".join(line for _, line in numbered_lines(path, file))


def _decode(line: bytes, path: str, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1}); convert "
            f"the file, for instance: iconv -f OLD_ENCODING -t UTF-8 (UTF-16, GB18030 and LATIN1 are frequent ones)"
        ) from None
