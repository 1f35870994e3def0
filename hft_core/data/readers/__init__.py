"""Read one data file, or folder of classes, into rows.

A format is a module with a function from path to `Rows`, and an entry of `FORMATS` (and of the recipe's `format` key).

Files are parsed here and held by `datasets`. `datasets.load_dataset` is used for the hub alone: its readers turn "001"
into 1 and "NA" into nothing, fill short rows and missing keys with None, accept columns of mixed types, fail on an
empty file with a bare StopIteration, and do not report which row is wrong. It also caches on disk, which can return a
changed file's old rows and collides between concurrent runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from hft_core.data.readers import conll, dataset, delimited, folder, json_lines, json_list, parquet, txt, xlsx
from hft_core.data.readers.annotations import argilla, doccano, label_studio, prodigy
from hft_core.data.rows import Rows
from hft_core.errors import DataError

Quoting = Literal["minimal", "none"]
"""Whether double quotes enclose the cells of csv and tsv files, or are text."""


@dataclass(frozen=True)
class Format:
    """A file format."""

    read: Callable[[str], Rows]
    """Reads the file or folder at a path. Raises `DataError`."""
    suffixes: tuple[str, ...] = ()
    """`.gz` may follow any but `.parquet` and `.xlsx`."""


FORMATS: dict[str, Format] = {
    "csv": Format(delimited.read_csv, (".csv",)),
    "tsv": Format(delimited.read_tsv, (".tsv",)),
    "json": Format(json_list.read, (".json",)),
    "jsonl": Format(json_lines.read, (".jsonl", ".ndjson")),
    "parquet": Format(parquet.read, (".parquet",)),
    "xlsx": Format(xlsx.read, (".xlsx",)),
    "txt": Format(txt.read_lines, (".txt",)),
    "conll": Format(conll.read, (".conll", ".bio", ".iob")),
    "folder": Format(folder.read),
    "dataset": Format(dataset.read),
    "label-studio": Format(label_studio.read),
    "doccano": Format(doccano.read),
    "prodigy": Format(prodigy.read),
    "argilla": Format(argilla.read),
}

UNQUOTED: dict[str, Callable[[str], Rows]] = {
    "csv": partial(delimited.read_csv, quotes=False),
    "tsv": partial(delimited.read_tsv, quotes=False),
}
"""Readers for files in which double quotes are text."""

SUFFIXES = {suffix: name for name, format in FORMATS.items() for suffix in format.suffixes}
"""Formats by file suffix. A directory is a `folder`, or a `dataset` if `save_to_disk` wrote it."""


def check_keys(path: str, format: str, quoting: Quoting, sheet: str | None) -> None:
    """Raise `DataError` for a key that is of another format."""
    if sheet is not None and format != "xlsx":
        raise DataError(f"{path}: sheet is for xlsx files, found {format}")
    if quoting == "none" and format not in UNQUOTED:
        raise DataError(f"{path}: quoting: none is for {' and '.join(UNQUOTED)} files, found {format}")


def read_file(path: str, format: str, row: str, quoting: Quoting = "minimal", sheet: str | None = None) -> Rows:
    """Read a file, or what else `path` names if `format` is `folder` or `dataset`; `row` (`line` or `file`) is for txt,
    `quoting` for csv and tsv, `sheet` for xlsx. Raises `DataError`."""
    check_keys(path, format, quoting, sheet)
    if format not in ("folder", "dataset") and Path(path).is_dir():
        raise DataError(f"{path} is a folder: name the files in it, for instance '{path.rstrip('/')}/*.{format}'")
    if format == "xlsx":
        return xlsx.read(path, sheet)
    if format == "txt" and row == "file":
        return txt.read_file(path)
    return UNQUOTED[format](path) if quoting == "none" else FORMATS[format].read(path)
