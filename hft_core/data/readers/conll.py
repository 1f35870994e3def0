"""Read CoNLL files: one token per line, columns divided by tabs or blanks, a blank line after each sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hft_core.data.readers.lines import numbered_lines, open_bytes
from hft_core.data.readers.records import NumberedRecords, Record, pack
from hft_core.data.rows import Rows, Source
from hft_core.errors import DataError

_NO_WORD = re.compile(r"(\d+)([-.])\d+")
"""The number of a CoNLL-U line that is no word."""


@dataclass(frozen=True)
class _TokenForm:
    """The form of the file's first token."""

    columns: int = 0
    tabs: bool = False
    """Whether tabs divide the columns."""
    line: int = 0


def read(path: str) -> Rows:
    """Read one row per sentence: `words`, `column_2` …, and the last column also as `tags`. Raises `DataError`.

    Of CoNLL-U, the lines of multiword tokens and empty nodes are left out.
    """
    return pack(_sentences(path), Source(path, "line"))


def _sentences(path: str) -> NumberedRecords:
    """Yield the sentences, numbered by the line of their first token."""
    form = _token_form(path)
    tokens: list[list[str]] = []
    start = 0
    with open_bytes(path) as file:
        for number, line in numbered_lines(path, file):
            cells = _cells(line)
            if not cells or _starts_document(line):
                if tokens:
                    yield start, _record(tokens)
                    tokens = []
                continue
            if not tokens and line.startswith("#") and (len(cells), "\t" in line) != (form.columns, form.tabs):
                continue
            if len(cells) != form.columns:
                raise DataError(
                    f"{path}, line {number}: found {len(cells)} columns, expected {form.columns} as in line "
                    f"{form.line} (one token a line, columns divided by tabs or blanks, a blank line after each "
                    f"sentence)"
                )
            start = start if tokens else number
            tokens.append(cells)
    if tokens:
        yield start, _record(tokens)


def _token_form(path: str) -> _TokenForm:
    """Find the form of the file's first token.

    A line with `#` may be a comment or the token `#`: it is a comment if it starts a sentence and has another form than
    the tokens.
    """
    form = _TokenForm()
    with open_bytes(path) as file:
        for number, line in numbered_lines(path, file):
            cells = _cells(line)
            if not cells or _starts_document(line) or (line.startswith("#") and form.columns):
                continue
            form = _TokenForm(len(cells), "\t" in line, number)
            if not line.startswith("#"):
                break
    return form


def _cells(line: str) -> list[str]:
    """Split a line at tabs if it has any, otherwise at blanks; Unicode's other blanks may be tokens."""
    line = line.strip(" \t\r\n")
    if not line:
        return []
    return [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else re.split(" +", line)


def _starts_document(line: str) -> bool:
    return line[:10].upper() == "-DOCSTART-"


def _words(tokens: list[list[str]]) -> list[list[str]]:
    """Return the lines of words, without those of CoNLL-U for a token of several words (`1-2`) or for an empty node
    (`3.1`): where the first column numbers the words 1, 2, …, `1-2` comes before word 1, and `3.1` behind word 3."""
    if len(tokens[0]) < 3 or not any(_NO_WORD.fullmatch(cells[0]) for cells in tokens):
        return tokens
    words: list[list[str]] = []
    for cells in tokens:
        other = _NO_WORD.fullmatch(cells[0])
        if other:
            in_place = int(other[1]) == len(words) + (other[2] == "-")
        else:
            words.append(cells)
            in_place = cells[0] == str(len(words))
        if not in_place:
            return tokens
    return words


def _record(tokens: list[list[str]]) -> Record:
    tokens = _words(tokens)
    columns = [list(column) for column in zip(*tokens, strict=True)]
    record = {"words": columns[0]} | {f"column_{i}": column for i, column in enumerate(columns[1:], start=2)}
    return record | ({"tags": columns[-1]} if len(columns) > 1 else {})
