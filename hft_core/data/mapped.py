"""Arrow tables on disk instead of in memory: written as they come, and mapped, so that only what is read is there."""

from __future__ import annotations

import mmap
import tempfile
from pathlib import Path
from typing import IO

import pyarrow as pa

PART_BYTES = 16 << 20
"""Tables that come one after another are held in memory up to this size, and then written together."""


class Parts:
    """Takes tables of the same columns as they come, and gives them back as few tables in files."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where the files are kept; without it, they have no name and go with the process."""
        self.in_folder = folder is not None
        """Whether everything so far was written into the folder; on a full disk, it is not."""
        self._folder = folder
        self._held: list[pa.Table] = []
        self._done: list[pa.Table] = []
        self._bytes = 0

    def add(self, table: pa.Table) -> None:
        self._held.append(table)
        self._bytes += table.nbytes
        if self._bytes >= PART_BYTES:
            self._write()

    def finish(self) -> list[pa.Table]:
        """All of them. What is left in memory at the end stays there unless the files are kept."""
        if self._held and self.in_folder:
            self._write()
        return [*self._done, *([_joined(self._held)] if self._held else [])]

    def _write(self) -> None:
        table = _joined(self._held)
        written = self._in_folder(table) if self.in_folder else None
        self.in_folder = written is not None
        self._done.append(spilled(table) if written is None else written)
        self._held, self._bytes = [], 0

    def _in_folder(self, table: pa.Table) -> pa.Table | None:
        """The table in a file of the folder; None where that cannot be written."""
        assert self._folder is not None
        path = self._folder / f"part-{len(self._done):05d}.arrow"
        try:
            with path.open("xb") as file:
                _put(table, file)
            return opened(path)
        except OSError:
            return None


def spilled(table: pa.Table) -> pa.Table:
    """The table in a file without a name; as it is where there is no room for one."""
    try:
        with tempfile.TemporaryFile() as file:
            _put(table, file)
            file.flush()
            return _mapped(file)
    except OSError:
        return table


def opened(path: Path) -> pa.Table:
    """The table in a file. Raises `OSError`, or `pa.ArrowInvalid` for a file that holds none."""
    with path.open("rb") as file:
        return _mapped(file)


def _joined(tables: list[pa.Table]) -> pa.Table:
    """One table of one chunk. A column that is without values in some of them, or missing, gets the others' type."""
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def _put(table: pa.Table, file: IO[bytes]) -> None:
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _mapped(file: IO[bytes]) -> pa.Table:
    """Its pages are read when they are looked at, and belong to the system's cache, not to the process."""
    buffer = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return pa.ipc.open_file(pa.BufferReader(buffer)).read_all()
