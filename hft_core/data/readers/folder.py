"""Read a folder with one subfolder of text files per class into the columns `text` and `label`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hft_core.data.readers.lines import read_text
from hft_core.data.rows import Rows, Source, from_columns
from hft_core.errors import DataError
from hft_core.file_guard import outside_link


def read(path: str) -> Rows:
    """Read each text file as a row, labeled by its subfolder. Raises `DataError`."""
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with one subfolder of text files a class")
    files: list[Path] = []
    for entry in _visible(folder):
        if not entry.is_dir():
            raise DataError(
                f"{entry}: is directly in the folder, expected one subfolder of text files a class "
                f"(texts without classes are named by a pattern, for instance '{folder}/*.txt')"
            )
        members = _visible(entry)
        subfolders = [file for file in members if file.is_dir()]
        if subfolders or not members:
            problem = f"a folder in it ('{subfolders[0].name}')" if subfolders else "no file in it"
            raise DataError(f"{entry}: {problem}, expected the text files of one class")
        files += members
    if not files:
        raise DataError(f"{folder}: empty, expected one subfolder of text files a class")
    columns = {"text": [read_text(str(file)) for file in files], "label": [file.parent.name for file in files]}
    sources = [Source(str(file), "file") for file in files]
    return from_columns(columns, sources, np.arange(len(files)), np.ones(len(files), np.int32))


def _visible(folder: Path) -> list[Path]:
    """Return the entries that are not hidden. Raises `DataError` for a link out of the folder."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if problem := outside_link(entry, folder):
            raise DataError(problem)
    return entries
