"""Read the files of a task that streams, in blocks of shuffled rows that follow from the seed and the files alone.

A pass reads every file once, in an order drawn for the pass. Consecutive rows, also of several files, form a block,
which is shuffled. A block begins at a row of a file, so that a run resumes at any block without reading those before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from hft_core.data.files import expand, format_of
from hft_core.data.readers import check_keys
from hft_core.data.readers.row_by_row import FORMATS, RowReader
from hft_core.data.row_checks import check, need_column
from hft_core.data.rows import Rows, Source, from_columns
from hft_core.errors import DataError
from hft_core.file_guard import open_regular
from hft_core.recipe import schema

if TYPE_CHECKING:
    from hft_core.head import Column

SAMPLE_ROWS, SAMPLE_CHARACTERS = 1000, 4_000_000
"""First rows that are checked before training; the others are checked when they are read."""
BLOCK_CHARACTERS = 32_000_000
"""A block ends with the row that reaches so many characters, whatever `shuffle_buffer` says; bounds memory."""
WHOLE_BYTES = 1 << 30
"""Size of the dev files, and of the test files, of a task that streams, at most: they are read whole."""
PROBES, PROBE_BYTES = 16, 4096
"""Places of a file, evenly spaced, and bytes from each, that its digest is made of."""


@dataclass(frozen=True)
class CorpusFile:
    """A file as it was when the run opened it."""

    reader: RowReader
    size: int
    changed: int
    """When it was changed last, in nanoseconds."""
    digest: str
    """Of its size and of `PROBES` places in it."""

    def check_unchanged(self) -> None:
        """Raise `DataError` if the file is not as it was."""
        expected = "expected the files of a stream to stay as they are until the run ends"
        try:
            now = os.stat(self.reader.path)
        except OSError as error:
            raise DataError(f"{self.reader.path}: cannot be read any more ({error.strerror}); {expected}") from None
        if (now.st_size, now.st_mtime_ns) != (self.size, self.changed):
            raise DataError(f"{self.reader.path}: changed since the run opened it; {expected}")


@dataclass(frozen=True)
class BlockStart:
    """Where a block begins."""

    epoch: int = 0
    """The pass over all files, 0 for the first."""
    file: int = 0
    """In the pass's order of the files."""
    after: int = 0
    """The number of the last row of that file before it."""
    block: int = 0
    """How many blocks are before it, in all passes."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows in shuffled order."""

    start: BlockStart
    rows: Rows


_Read = tuple[int, int, dict[str, Any]]
"""A row: the place of its file in the pass's order, its number in it, and its cells by column."""


class Corpus:
    """The training files of a task that streams."""

    def __init__(
        self, task: str, files: Sequence[CorpusFile], columns: Sequence[Column], names: Sequence[str], buffer: int
    ) -> None:
        """`columns`: what the head reads; `names`: the columns of the files that hold it; `buffer`: rows of a block."""
        self.task, self.files, self.columns, self.buffer = task, tuple(files), tuple(columns), buffer
        self._names = tuple(names)

    @classmethod
    def open(cls, data: schema.Data, columns: Sequence[Column], *, task: str) -> Corpus:
        """Open the files of `data.train`, each up to its first row.

        Raises `DataError` for a file that is missing, empty, without the columns, or of a format that is read at once.
        """
        paths = dict.fromkeys(path for pattern in data.train for path in expand(pattern, task))
        opened = [_opened(path, data, columns, task) for path in paths]
        first_row = opened[0][1]
        names = dict.fromkeys(c.name if c.name in first_row else c.name.partition(".")[0] for c in columns)
        return cls(task, [file for file, _ in opened], columns, list(names), data.shuffle_buffer)

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """A digest of the sizes of all files, in order, and of `PROBES` places in each."""
        return hashlib.sha256(repr([file.digest for file in self.files]).encode()).hexdigest()

    def sample(self) -> Rows:
        """Return the first `SAMPLE_ROWS` rows, or fewer of `SAMPLE_CHARACTERS`, checked. Raises `DataError`."""
        first = self._read(self.files, BlockStart())
        return self._rows(_up_to(first, SAMPLE_ROWS, SAMPLE_CHARACTERS), self.files)

    def blocks(self, seed: Sequence[int], start: BlockStart) -> Iterator[Block]:
        """Yield the blocks from `start` on, pass after pass, without end.

        Raises `DataError` for a row that does not fit the head's columns, and for a file that is gone or changed.
        """
        while True:
            files = [self.files[i] for i in _random(seed, 0, start.epoch).permutation(len(self.files))]
            read = self._read(files, start)
            while part := _up_to(read, self.buffer, BLOCK_CHARACTERS):  # none at the end of the pass
                last_file, last_row, _ = part[-1]
                files[last_file].check_unchanged()
                rows = self._rows(part, files)
                yield Block(start, rows.select(_random(seed, 1, start.block).permutation(len(rows))))
                start = BlockStart(start.epoch, last_file, last_row, start.block + 1)
            start = BlockStart(start.epoch + 1, block=start.block)

    def _read(self, files: Sequence[CorpusFile], start: BlockStart) -> Iterator[_Read]:
        """Yield the rows of a pass from `start` on."""
        for place in range(start.file, len(files)):
            file = files[place]
            file.check_unchanged()
            for number, record in file.reader.records(self._names, start.after if place == start.file else 0):
                if isinstance(record, DataError):
                    raise record
                yield place, number, {name: record.get(name) for name in self._names}
            file.check_unchanged()

    def _rows(self, part: Sequence[_Read], files: Sequence[CorpusFile]) -> Rows:
        """Return the rows, checked, with the places that they come from."""
        first = part[0][0]
        sources = [Source(file.reader.path, file.reader.unit) for file in files[first : part[-1][0] + 1]]
        columns = {name: [cells[name] for *_, cells in part] for name in self._names}
        rows = from_columns(columns, sources, [place - first for place, *_ in part], [number for _, number, _ in part])
        check(rows, self.columns, task=self.task, split="train")
        return rows


def _up_to(read: Iterator[_Read], rows: int, characters: int) -> list[_Read]:
    """Return the next rows: as many as `rows`, or up to the one that reaches so many characters."""
    part, reached = list[_Read](), 0
    for row in islice(read, rows):
        part.append(row)
        reached += sum(len(cell) for cell in row[2].values() if isinstance(cell, str))
        if reached >= characters:
            break
    return part


def check_size(paths: Sequence[str], *, task: str, split: str) -> None:
    """Raise `DataError` if the files of a split are too large to be read whole."""
    files = dict.fromkeys(path for pattern in paths for path in expand(pattern, task))
    size = sum(os.path.getsize(path) for path in files if os.path.isfile(path))
    if size > WHOLE_BYTES:
        raise DataError(
            f"task '{task}' ({split}): {size:,} bytes in {len(files)} file{'s' * (len(files) > 1)}, expected at most "
            f"{WHOLE_BYTES:,}: only train streams, and {split} is read whole"
        )


def _opened(path: str, data: schema.Data, columns: Sequence[Column], task: str) -> tuple[CorpusFile, dict[str, Any]]:
    """Return the file and its first row."""
    format = data.format or format_of(path, task)
    if format == "folder" or (format in FORMATS and os.path.isdir(path)):
        raise DataError(f"task '{task}': {path} is a folder: name the files in it, for instance '{path.rstrip('/')}/*'")
    if format not in FORMATS:
        raise DataError(
            f"task '{task}': {path} has the format '{format}', which is read at once; expected one that can stream: "
            f"{', '.join(FORMATS)}"
        )
    check_keys(path, format, data.quoting, data.sheet)
    reader = RowReader(path, format, data.row, data.quoting)
    try:
        now = os.stat(path)
        digest = _digest(path, now.st_size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if format == "txt" and data.row == "file":  # the whole file would be read for nothing: its column is known
        return CorpusFile(reader, now.st_size, now.st_mtime_ns, digest), {"text": ""}
    first = reader.first({part for column in columns for part in (column.name, column.name.partition(".")[0])})
    for column in columns:
        if column.name not in first:
            one = from_columns({name: [cell] for name, cell in first.items()}, [Source(path, reader.unit)], [0], [1])
            need_column(one, column.name, "in each row", task=task, split="train")
    return CorpusFile(reader, now.st_size, now.st_mtime_ns, digest), first


def _digest(path: str, size: int) -> str:
    """Hash the size, and what stands at `PROBES` places from the beginning to the end. Raises `OSError`."""
    digest = hashlib.sha256(str(size).encode())
    with open_regular(path) as file:
        for place in np.linspace(0, max(size - PROBE_BYTES, 0), PROBES).astype(np.int64).tolist():
            file.seek(place)
            digest.update(file.read(PROBE_BYTES))
    return digest.hexdigest()


def _random(seed: Sequence[int], *use: int) -> np.random.Generator:
    return np.random.default_rng((*seed, *use))
