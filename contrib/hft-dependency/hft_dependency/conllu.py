"""Read CoNLL-U files (universaldependencies.org/format.html) as rows; standard library only.

train = hft_dependency.conllu.read("en_ewt-ud-train.conllu")
hft_core.run(recipe, data={"syntax": {"train": train}})
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hft_core.errors import DataError
from hft_core.file_guard import open_regular

COLUMNS = 10
ID, FORM, HEAD, DEPREL = 0, 1, 6, 7

Lines = list[tuple[int, str]]
"""Numbered lines, from 1."""


def read(path: str | Path) -> list[dict[str, Any]]:
    """Return a row a sentence: `words`, `heads` (0 for the root, otherwise a word's number from 1) and `relations`.

    Words are the syntactic words: the lines of multiword tokens (`3-4`) and of empty nodes (`8.1`) are passed over, as
    are comments. Raises `DataError`, with the line, for what is not of this format; whether the heads are a tree is
    checked with all other rows when a run begins.
    """
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: byte {error.start}, expected CoNLL-U in UTF-8") from error
    rows = [_row(sentence, path) for sentence in _sentences(text)]
    if not rows:
        raise DataError(f"{path} has no sentence, expected CoNLL-U")
    return rows


def _sentences(text: str) -> Iterator[Lines]:
    """Yield the lines of each sentence without its comments."""
    sentence: Lines = []
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        line = line.rstrip("\r")
        if line.strip() and not line.startswith("#"):
            sentence.append((number, line))
        elif not line.strip() and sentence:
            yield sentence
            sentence = []


def _row(sentence: Lines, path: str | Path) -> dict[str, Any]:
    row: dict[str, Any] = {"words": [], "heads": [], "relations": []}
    for number, line in sentence:
        cells = line.split("\t")
        if len(cells) != COLUMNS:
            raise DataError(f"{path}, line {number}: found {len(cells)} columns, expected {COLUMNS}, separated by tabs")
        if "-" in cells[ID] or "." in cells[ID]:
            continue
        expected = len(row["words"]) + 1
        if cells[ID] != str(expected):
            raise DataError(f"{path}, line {number}: found the ID {cells[ID]!r}, expected {expected}")
        if not (cells[HEAD].isascii() and cells[HEAD].isdigit()):
            raise DataError(
                f"{path}, line {number}: found the HEAD {cells[HEAD]!r}, expected a word's number, or 0 for the root"
            )
        row["words"].append(cells[FORM])
        row["heads"].append(int(cells[HEAD]))
        row["relations"].append(cells[DEPREL])
    if not row["words"]:
        raise DataError(f"{path}, line {sentence[0][0]}: found a sentence without words, expected at least one")
    return row
