"""One data file (or folder of classes) to rows, for each format.

The files are parsed here and held by `datasets`, instead of being read by `datasets.load_dataset`: its readers turn
"001" into 1 and "NA" into nothing, fill short rows and missing keys with None, accept columns of mixed types, fail on
an empty file with a bare StopIteration, and do not know which row of a file went wrong. Nothing is cached on disk
either, so that a changed file is never answered with its old rows and runs side by side cannot collide.
"""

from __future__ import annotations

import csv
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hft_core.data import gzip_stream
from hft_core.data.mapped import PART_BYTES
from hft_core.data.rows import Rows, Source, dataset_of, from_columns, join, refuse_odd_names, spilled
from hft_core.errors import DataError

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
}
"""Formats by file suffix; `.gz` may follow any but `.parquet`. A directory is a `folder`."""

CHUNK = 20_000
"""Records held as Python objects before they are packed; bounds the memory that reading takes."""

CELL_LIMIT = 2**31 - 1
"""Characters in a csv cell; the `csv` module's own limit of 131,072 is shorter than some articles."""

Record = dict[str, Any]
Numbered = Iterator[tuple[int, Record]]
"""Records with their number in the file (from 1)."""


def read_file(path: str, format: str, row: str) -> Rows:
    """The rows of one file, or of the folder `path` when `format` is `folder`. Raises `DataError`."""
    if format == "folder":
        return _folder(Path(path))
    if Path(path).is_dir():
        raise DataError(f"{path} is a folder: name the files in it, for instance '{path.rstrip('/')}/*.{format}'")
    if format == "parquet":
        return _parquet(path)
    if format == "txt" and row == "file":
        return _packed(iter([(1, {"text": _text(path)})]), Source(path, "file"))
    reader, unit = _READERS[format]
    return _packed(reader(path), Source(path, unit))


def _packed(records: Numbered, source: Source) -> Rows:
    """The records as rows. Raises `DataError` when there is none."""
    parts: list[Rows] = []
    held: list[Rows] = []
    while chunk := list(islice(records, CHUNK)):
        names = dict.fromkeys(name for _, record in chunk for name in record)
        columns = {name: [record.get(name) for _, record in chunk] for name in names}
        numbers = np.array([number for number, _ in chunk], np.int32)
        held.append(from_columns(columns, [source], np.zeros(len(chunk), np.int32), numbers))
        if sum(part.dataset.data.nbytes for part in held) >= PART_BYTES:
            parts.append(spilled(join(held)))
            held = []
    if not parts and not held:
        raise DataError(f"{source.name}: no data in it, expected at least one {source.unit}")
    return join([*parts, *held])


# --- the formats


def _csv(path: str) -> Numbered:
    return _delimited(path, ",", "csv")


def _tsv(path: str) -> Numbered:
    return _delimited(path, "\t", "tsv")


def _delimited(path: str, delimiter: str, format: str) -> Numbered:
    """Every cell is the text that was written; blank lines are no rows."""
    # The limit belongs to the process and is looked at for each row; it is only ever lifted, which harms no other user.
    csv.field_size_limit(max(CELL_LIMIT, csv.field_size_limit()))
    with _opened(path) as file:
        cells = csv.reader((line for _, line in _lines(path, file)), delimiter=delimiter, strict=True)
        header: list[str] = []
        row, start = 0, 1
        try:
            for record in cells:
                place = f"{path}, row {row + 1} (line {start})"
                start = cells.line_num + 1
                if not record:
                    continue
                if not header:
                    header = _header(path, record)
                    continue
                row += 1
                if len(record) != len(header):
                    raise DataError(
                        f"{place}: found {len(record)} cells, expected {len(header)} as in the header "
                        f"(a cell with the separator or a line break in it must stand in double quotes)"
                    )
                yield row, dict(zip(header, record, strict=True))
        except csv.Error as error:
            what = "a double quote is opened and never closed" if "unexpected end" in str(error) else str(error)
            place = f"row {row + 1}" if header else "the header"
            raise DataError(
                f"{path}, {place} (line {start}): not well-formed {format}: {what} "
                f"(a cell with a double quote in it must stand in double quotes, with the inner ones doubled)"
            ) from None
        if not header:
            raise DataError(f"{path}: the file is empty, expected a header with the names of the columns")


def _header(path: str, record: list[str]) -> list[str]:
    header = [cell.strip() for cell in record]
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: the header names the column {name!r} twice")
    return header


def _json_lines(path: str) -> Numbered:
    with _opened(path) as file:
        for number, line in _lines(path, file):
            if line.strip():
                place = f"{path}, line {number}"
                yield number, _record(_parsed(line.rstrip("\r\n"), place), place)


def _json_list(path: str) -> Numbered:
    text = _text(path)
    if not text.strip():
        raise DataError(f"{path}: the file is empty, expected a list of objects")
    found = _parsed(text, path)
    if not isinstance(found, list):
        raise DataError(f"{path}: expected a list of objects, found {_kind(found)}")
    for number, record in enumerate(found, start=1):
        yield number, _record(record, f"{path}, row {number}")


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        hint = "; one object a line is the format jsonl" if error.msg == "Extra data" and line else ""
        raise DataError(f"{place}: not valid JSON: {error.msg} ({line}column {error.colno}){hint}") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; very deep nesting
        raise DataError(f"{place}: JSON that cannot be read: {str(error).split(';')[0]}") from None


def _record(value: Any, place: str) -> Record:
    if not isinstance(value, dict) or not value:
        raise DataError(f"{place}: expected an object with the columns as its keys, found {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return "an object without keys" if value == {} else names.get(type(value), "a number")


def _text_lines(path: str) -> Numbered:
    with _opened(path) as file:
        for number, line in _lines(path, file):
            if line.strip():
                yield number, {"text": line.rstrip("\r\n")}


def _conll(path: str) -> Numbered:
    """A sentence a record, numbered by the line of its first token: `words`, `column_2` …, and the last as `tags`."""
    width, tabs, first = _token_form(path)
    sentence: list[list[str]] = []
    start = 0
    with _opened(path) as file:
        for number, line in _lines(path, file):
            cells = _token(line)
            if not cells or line.startswith("-DOCSTART-"):
                if sentence:
                    yield start, _sentence(sentence)
                    sentence = []
                continue
            if not sentence and line.startswith("#") and (len(cells), "\t" in line) != (width, tabs):
                continue
            if len(cells) != width:
                raise DataError(
                    f"{path}, line {number}: found {len(cells)} columns, expected {width} as in line {first} (one "
                    f"token a line, columns divided by tabs or blanks, a blank line after each sentence)"
                )
            start = start if sentence else number
            sentence.append(cells)
    if sentence:
        yield start, _sentence(sentence)


def _token_form(path: str) -> tuple[int, bool, int]:
    """The number of columns of the file's first token, whether tabs divide them, and its line.

    A line with `#` may be a comment or the token `#`: at the start of a sentence, and of another form than the tokens,
    it is a comment.
    """
    first: tuple[int, bool, int] = (0, False, 0)
    with _opened(path) as file:
        for number, line in _lines(path, file):
            cells = _token(line)
            if not cells or line.startswith("-DOCSTART-") or (line.startswith("#") and first[0]):
                continue
            first = (len(cells), "\t" in line, number)
            if not line.startswith("#"):
                break
    return first


def _token(line: str) -> list[str]:
    """The columns of a line: divided by tabs where it has any, otherwise by blanks; Unicode's other blanks may be
    tokens."""
    line = line.strip(" \t\r\n")
    if not line:
        return []
    return [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else re.split(" +", line)


def _sentence(tokens: list[list[str]]) -> Record:
    columns = [list(column) for column in zip(*tokens, strict=True)]
    record = {"words": columns[0]} | {f"column_{i}": column for i, column in enumerate(columns[1:], start=2)}
    return record | ({"tags": columns[-1]} if len(columns) > 1 else {})


_READERS: dict[str, tuple[Callable[[str], Numbered], Literal["row", "line"]]] = {
    "csv": (_csv, "row"),
    "tsv": (_tsv, "row"),
    "json": (_json_list, "row"),
    "jsonl": (_json_lines, "line"),
    "txt": (_text_lines, "line"),
    "conll": (_conll, "line"),
}


def _parquet(path: str) -> Rows:
    source = Source(path, "row")
    try:
        with Path(path).open("rb") as file:
            table = _without_dictionaries(pq.read_table(file))
        refuse_odd_names(table.column_names, source)
        dataset = dataset_of(table)
    except (OSError, ValueError, TypeError, LookupError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as parquet: {' '.join(str(error).split())}") from None
    if len(dataset) == 0 or not dataset.column_names:
        raise DataError(f"{path}: no data in it, expected at least one row")
    return Rows(dataset, [source], np.zeros(len(dataset), np.int32), np.arange(1, len(dataset) + 1))


def _without_dictionaries(table: pa.Table) -> pa.Table:
    """The table without dictionary encoding (pandas' categories), which `datasets` does not take."""
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table


def _folder(folder: Path) -> Rows:
    """One subfolder of text files a class: columns `text` and `label`."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with one subfolder of text files a class")
    files: list[Path] = []
    for entry in _visible(folder):
        if not entry.is_dir():
            raise DataError(
                f"{entry}: lies directly in the folder, expected one subfolder of text files a class "
                f"(texts without classes are named by a pattern, for instance '{folder}/*.txt')"
            )
        members = _visible(entry)
        deeper = [file for file in members if file.is_dir()]
        if deeper or not members:
            found = f"a folder in it ('{deeper[0].name}')" if deeper else "no file in it"
            raise DataError(f"{entry}: {found}, expected the text files of one class")
        files += members
    if not files:
        raise DataError(f"{folder}: empty, expected one subfolder of text files a class")
    columns = {"text": [_text(str(file)) for file in files], "label": [file.parent.name for file in files]}
    sources = [Source(str(file), "file") for file in files]
    return from_columns(columns, sources, np.arange(len(files)), np.ones(len(files), np.int32))


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


# --- bytes to text


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed when its name ends in .gz."""
    try:
        with gzip_stream.opened(path) if path.lower().endswith(".gz") else Path(path).open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _lines(path: str, file: BinaryIO) -> Iterator[tuple[int, str]]:
    """The lines with their numbers and line ends. Only a line feed ends a line: a text may hold Unicode's others."""
    for number, line in enumerate(file, start=1):
        yield number, _decoded(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, path, number)


def _text(path: str) -> str:
    with _opened(path) as file:
        return "".join(line for _, line in _lines(path, file))


def _decoded(line: bytes, path: str, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1}); convert "
            f"the file, for instance: iconv -f OLD_ENCODING -t UTF-8 (UTF-16, GB18030 and LATIN1 are frequent ones)"
        ) from None
