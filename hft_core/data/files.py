"""Read the files of a task, which a recipe names by paths and wildcards."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from hft_core.data.readers import SUFFIXES, Quoting, read_file
from hft_core.data.readers.annotations.recognize import export_format
from hft_core.data.readers.dataset import is_dataset
from hft_core.data.row_checks import nearest
from hft_core.data.rows import Rows, join
from hft_core.errors import DataError
from hft_core.file_guard import outside_link


def read(
    paths: Sequence[str],
    format: str | None,
    row: Literal["line", "file"],
    *,
    task: str,
    quoting: Quoting = "minimal",
    sheet: str | None = None,
) -> Rows:
    """Read the files that `paths` (which may have wildcards) name, in order; a file named twice is read once.

    `format` overrides the file name's suffix (`hft_core.data.readers.SUFFIXES`); `row` is the unit of a row in a txt
    file; `quoting`: `none` where double quotes in csv and tsv files are text; `sheet` of an xlsx file. Raises
    `DataError` for a file that is missing, empty, damaged, not UTF-8, or has other columns than the first.
    """
    parts: list[Rows] = []
    for path in dict.fromkeys(path for pattern in paths for path in expand(pattern, task)):
        part = read_file(path, format or format_of(path, task), row, quoting, sheet)
        if format is None and "answer" in part.columns and export_format(path) == "prodigy":
            part = part.noted(
                f"{path} is an export of Prodigy, and what annotators rejected or ignored is learned with it; 'format: "
                "prodigy' leaves that out"
            )
        if parts and set(part.columns) != set(parts[0].columns):
            odd = sorted(set(part.columns) ^ set(parts[0].columns))
            raise DataError(
                f"task '{task}': {parts[0].sources[0].name} and {path} differ in the columns "
                f"{', '.join(map(repr, odd))}, expected the same columns in all files of a task"
            )
        parts.append(part)
    return join(parts)


def expand(pattern: str, task: str) -> list[str]:
    """Return the files that match a path, which may have wildcards. Raises `DataError`."""
    pattern = os.path.expanduser(pattern)
    # First, since a name may contain brackets.
    if is_dataset(pattern) or os.path.exists(pattern):  # noqa: PTH110 (pathlib's raises for a long name)
        return [pattern]
    if glob.has_magic(pattern):
        files = sorted(glob.glob(pattern, recursive=True))
        if not files:
            raise DataError(f"task '{task}': no file matches {pattern!r}")
        for file in files:  # a folder of somebody else's may lead anywhere; a file that is named is meant
            if problem := outside_link(file, _fixed_folder(pattern)):
                raise DataError(f"task '{task}': {problem}")
        return files
    folder = os.path.dirname(pattern) or "."
    siblings = os.listdir(folder) if os.path.isdir(folder) else []
    raise DataError(f"task '{task}': there is no file {pattern!r}.{nearest(Path(pattern).name, siblings)}")


def _fixed_folder(pattern: str) -> str:
    """Return the folder above the first wildcard."""
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return str(Path(*parts[:first]))


def format_of(path: str, task: str) -> str:
    """Return the format that the file name's suffix says. Raises `DataError`."""
    if is_dataset(path):
        return "dataset"
    if Path(path).is_dir():
        return "folder"
    suffix = Path(path.lower().removesuffix(".gz")).suffix
    if suffix not in SUFFIXES:
        raise DataError(
            f"task '{task}': {path} has the suffix '{suffix}', which names no format; expected one of "
            f"{', '.join(SUFFIXES)}, or the key 'format' beside it"
        )
    return SUFFIXES[suffix]
