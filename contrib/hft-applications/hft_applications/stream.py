"""Read rows of text as they arrive: from a file, a folder or standard input, finished or still growing."""

from __future__ import annotations

import csv
import json
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from hft_core.data import shown
from hft_core.errors import DataError, UsageError

FORMATS = ("jsonl", "csv", "txt")
"""Those that can be read line by line."""
AT_ONCE = 256
WAIT = 1.0
"""Seconds until a growing file or folder is looked at again."""


@dataclass(frozen=True)
class Arrival:
    """A row and where it stands; or, where the row cannot be read, what is wrong with it."""

    place: str
    row: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


Item = Arrival | BaseException | None
"""What a reading thread hands over; last an error, or None at the end."""


def arrivals(source: str, *, format: str | None, follow: bool) -> Iterator[Arrival]:
    """Yield the rows of `source` (`-`: standard input); with `follow`, also those that are added later.

    Raises `UsageError` for a source that cannot be read so, `DataError` for a file that cannot be read at all.
    """
    if format not in (None, *FORMATS):
        raise UsageError(f"--format {format}: expected {', '.join(FORMATS)}")
    if source == "-":
        return _by_line(sys.stdin.buffer, "standard input", format)
    path = Path(source)
    if path.is_dir():
        return _of_folder(path, follow=follow)
    if not path.is_file():
        raise UsageError(f"--input {source}: expected a file, a folder or '-', and there is none")
    if not follow:
        return _of_file(path)
    named = format or path.suffix.removeprefix(".")
    if named not in FORMATS:
        raise UsageError(f"--follow {source}: expected a file of the format {', '.join(FORMATS)}; see --format")
    return _by_line(_growing(path), str(path), named)


def at_once(rows: Iterable[Arrival]) -> Iterator[list[Arrival]]:
    """Yield the rows in lists, as many as have arrived; an empty one each second in which none has."""
    waiting: queue.Queue[Item] = queue.Queue(maxsize=4 * AT_ONCE)

    def read() -> None:
        try:
            for row in rows:
                waiting.put(row)
            waiting.put(None)
        except BaseException as error:  # raised where the rows are used
            waiting.put(error)

    threading.Thread(target=read, daemon=True).start()
    while True:
        items = _available(waiting)
        yield [item for item in items if isinstance(item, Arrival)]
        if items and not isinstance(last := items[-1], Arrival):
            if last is not None:
                raise last
            return


def _available(waiting: queue.Queue[Item]) -> list[Item]:
    """Take what has arrived, waiting a second for the first of it."""
    items: list[Item] = []
    with suppress(queue.Empty):
        items.append(waiting.get(timeout=WAIT))
        while len(items) < AT_ONCE:
            items.append(waiting.get_nowait())
    return items


def _of_file(path: Path) -> Iterator[Arrival]:
    from hft_core.predict import rows_from_file

    rows = rows_from_file(path, "input")
    for indices, columns in rows.batches(AT_ONCE):
        for i, values in zip(indices, zip(*columns.values(), strict=True), strict=True):
            yield Arrival(rows.where(i), dict(zip(columns, values, strict=True)))


def _of_folder(folder: Path, *, follow: bool) -> Iterator[Arrival]:
    """Yield the rows of each file, in the order of their names; with `follow`, then those of files that come later."""
    read: set[Path] = set()
    while True:
        found = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        for path in found:
            if path not in read:
                read.add(path)
                yield from _of_file(path)
        if not follow:
            return
        time.sleep(WAIT)


def _growing(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, then those that are added to it. One that has become shorter is read from its
    beginning."""
    place, begun = 0, b""
    while True:
        with path.open("rb") as file:
            if file.seek(0, 2) < place:
                place, begun = 0, b""
            file.seek(place)
            for line in file:
                begun += line
                if begun.endswith(b"\n"):
                    yield begun
                    begun = b""
            place = file.tell()
        time.sleep(WAIT)


def _by_line(lines: Iterable[bytes], name: str, format: str | None) -> Iterator[Arrival]:
    texts = (_decoded(line, name) for line in lines)
    first = next(texts, "")
    everything = chain([first.removeprefix("\ufeff")], texts)
    if format == "csv":
        yield from _table(everything, name)
        return
    as_json = format == "jsonl" or (format is None and first.lstrip().startswith("{"))
    for number, text in enumerate(everything, start=1):
        if text.strip():
            place = f"{name}, line {number}"
            yield _from_json(text, place) if as_json else Arrival(place, {"text": text.strip()})


def _decoded(line: bytes, name: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: expected UTF-8; found {error.object[error.start : error.end]!r}") from error


def _from_json(text: str, place: str) -> Arrival:
    try:
        row = json.loads(text)
    except ValueError as error:
        return Arrival(place, problem=f"expected a JSON object; {error}")
    if not isinstance(row, dict):
        return Arrival(place, problem=f"expected a JSON object; found {shown(row)}")
    return Arrival(place, row)


def _table(texts: Iterable[str], name: str) -> Iterator[Arrival]:
    rows = csv.DictReader(texts)
    for row in rows:
        place = f"{name}, line {rows.line_num}"
        if None in row or None in row.values():
            yield Arrival(place, problem=f"expected {len(rows.fieldnames or ())} cells, as the header has")
        else:
            yield Arrival(place, row)
