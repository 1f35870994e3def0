"""Read data sets of the library `datasets`: a folder that `save_to_disk` wrote, or a data set of the hub."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from hft_core.data.readers import hub
from hft_core.data.rows import Rows, Source, dataset_of, refuse_odd_names
from hft_core.errors import DataError, did_you_mean
from hft_core.file_guard import folder_problem
from hft_core.runtime.files import read_json

ONE, SEVERAL = "state.json", "dataset_dict.json"
"""What `Dataset.save_to_disk` and `DatasetDict.save_to_disk` write into their folder."""


def is_dataset(path: str) -> bool:
    """Return whether `path` names a data set: `hf://OWNER/NAME`, a folder that `save_to_disk` wrote, or
    `FOLDER:SPLIT`."""
    return hub.is_address(path) or _is_saved(path) or _is_saved(path.rpartition(":")[0])


def _is_saved(path: str) -> bool:
    return bool(path) and any(os.path.isfile(os.path.join(path, name)) for name in (ONE, SEVERAL))


def read(path: str) -> Rows:
    """Read the rows of a data set, or of the split that `path` ends with. Raises `DataError`."""
    if hub.is_address(path):
        return hub.read(path)
    folder = _folder_of_split(path)
    if problem := folder_problem(folder):
        raise DataError(problem)
    source = Source(path, "row")
    try:
        table = pa.concat_tables([_table(file) for file in _files(folder)] or [pa.table({})])
        refuse_odd_names(table.column_names, source)
        dataset = dataset_of(table)
    except (OSError, ValueError, TypeError, LookupError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: cannot be read as a folder of 'save_to_disk': {' '.join(str(error).split())}"
        ) from None
    if len(dataset) == 0 or not dataset.column_names:
        raise DataError(f"{path}: no data in it, expected at least one row")
    return Rows(dataset, [source], np.zeros(len(dataset), np.int32), np.arange(1, len(dataset) + 1))


def _folder_of_split(path: str) -> Path:
    """Return the folder of the one data set that is meant. Raises `DataError` where it is one of several."""
    name, wanted = (path, "") if Path(path).is_dir() else path.rpartition(":")[::2]
    folder = Path(name)
    if (folder / ONE).is_file():
        if wanted:
            raise DataError(f"{path}: {folder} is one data set without splits, expected its path alone")
        return folder
    if not (folder / SEVERAL).is_file():
        raise DataError(f"{path}: expected a folder that 'save_to_disk' of the library datasets wrote ({ONE} in it)")
    try:
        splits = [str(split) for split in read_json(folder / SEVERAL)["splits"]]
        return folder / _inside(_chosen(path, name, wanted, splits))
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise DataError(f"{folder / SEVERAL}: cannot be read: {error}") from None


def _chosen(path: str, name: str, wanted: str, splits: list[str]) -> str:
    if wanted in splits or (len(splits) == 1 and not wanted):
        return wanted or splits[0]
    has = f"{name} has the splits {', '.join(map(repr, splits)) or 'none'}"
    if wanted:
        raise DataError(f"{path}: there is no split '{wanted}'; {has}.{did_you_mean(wanted, splits)}")
    raise DataError(f"{has}: name one of them, for instance '{name}:{splits[0] if splits else 'train'}'")


def _files(folder: Path) -> list[Path]:
    return [folder / _inside(part["filename"]) for part in read_json(folder / ONE)["_data_files"]]


def _inside(name: str) -> str:
    """Return the name of a file of the folder. Raises `ValueError` for a path, which leads elsewhere."""
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"{name!r} is not a name in the folder")
    return name


def _table(file: Path) -> pa.Table:
    """Map a file. Its offsets are checked, since Arrow takes them on trust and would read beyond the file."""
    table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
    table.validate(full=True)
    return table
