"""Write sanitized text, JSON and tables to the terminal or a pipe; imports no torch."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO
from unicodedata import combining, east_asian_width

from hft_core.sanitize import json_text
from hft_core.sanitize import plain as plain


def open_standard_streams() -> None:
    """Open a null device in the place of each standard stream that was closed (`>&-`, as daemons do): otherwise the
    next file that is opened would get its number, and what a library prints."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (until the process ends)


def say(text: object = "") -> None:
    """Print one line on standard output."""
    print(plain(text))


def say_error(text: object) -> None:
    """Print one line on standard error in one write: `print` writes the newline separately, which would mix lines of
    several processes. Where nobody can read it, it is lost: an error's exit code stays what it is."""
    try:
        sys.stderr.write(f"{plain(text)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # full, closed, or a pipe whose reader has gone
        discard(sys.stderr)


@contextmanager
def also_in_a_file(place: object) -> Iterator[None]:
    """Print inside what is in the file `place` too: a standard output that cannot be written to is then no failure."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)
        say_error(f"warning: standard output cannot be written to ({error.strerror}): the results are in {place}")


def discard(stream: TextIO) -> None:
    """Let a stream that failed write nowhere from now on: what it still holds must not fail again when Python exits."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def print_json(value: Any) -> None:
    """Print `value` as JSON; other types are converted to strings."""
    print(_json(value, indent=2))


def print_json_line(value: Any) -> None:
    """As `print_json`, on one line."""
    print(_json(value))


def _json(value: Any, indent: int | None = None) -> str:
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    return json_text(value, indent=indent, ascii_only=ascii_only, default=str)


WARNS_ON_IMPORT = "bitsandbytes.backends.cpu.ops"
"""A logger that asks for another package where PEFT imports bitsandbytes, whether or not anything is quantized."""


@contextmanager
def sanitized_logs() -> Iterator[None]:
    """Sanitize the log messages of other libraries within the block, and leave out what they say when imported."""
    factory, unasked = logging.getLogRecordFactory(), logging.getLogger(WARNS_ON_IMPORT)
    level = unasked.level
    unasked.setLevel(logging.ERROR)

    def record(*arguments: Any, **more: Any) -> logging.LogRecord:
        entry = factory(*arguments, **more)
        try:
            text = entry.getMessage()
        except (
            TypeError,
            ValueError,
            KeyError,
        ):  # wrong number of arguments: its handler reports that
            return entry
        entry.msg, entry.args = "\n".join(map(plain, text.splitlines())), ()
        return entry

    logging.setLogRecordFactory(record)
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        unasked.setLevel(level)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, wrap: Sequence[str] = ()) -> None:
    """Print aligned columns, under `headings` unless all are empty.

    On a narrow terminal the columns `wrap` are wrapped; in a pipe nothing is cut, and rich is not imported.
    """
    cells = [[plain(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_on_terminal(headings, cells, wrap)
        return
    lines = [list(headings), *cells] if any(headings) else cells
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())


def _print_on_terminal(headings: Sequence[str], rows: Sequence[Sequence[str]], wrap: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=any(headings))
    for heading in headings:
        table.add_column(Text(heading), no_wrap=heading not in wrap, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text, since a str would be read as markup
    Console(highlight=False).print(table)


def _width(text: str) -> int:
    """Count the terminal columns of `text`: two for each wide East Asian character."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 1 + (east_asian_width(c) in "WF") for c in text)
