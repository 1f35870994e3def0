"""Read a gzip file with a limit on its unpacked size."""

from __future__ import annotations

import gzip
import io
import os
from typing import TYPE_CHECKING

from hft_core.errors import DataError
from hft_core.file_guard import open_regular

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RATIO = 200
"""Largest ratio of unpacked to packed size; texts and tables reach 3 to 20, gzip at most 1,032."""
FREE = 64 << 20
"""Bytes that any file may unpack to, whatever its ratio."""
BUFFER = 1 << 20


def open_gzip(path: str) -> io.BufferedReader:
    """Open a gzip file. Reading raises `DataError` beyond `FREE` and `RATIO`, and the errors of `gzip` for damaged
    files."""
    return io.BufferedReader(_Bounded(path), BUFFER)


class _Bounded(io.RawIOBase):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._packed = open_regular(path)
        self._left = max(FREE, RATIO * os.fstat(self._packed.fileno()).st_size)
        self._file = gzip.GzipFile(fileobj=self._packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = self._file.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise DataError(
                f"{self._path}: unpacks to more than {RATIO} times its size, expected at most that; if all of it is "
                "meant, unpack it (gunzip) and name the unpacked file"
            )
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            self._packed.close()
        super().close()
