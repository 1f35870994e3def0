"""Convert data that a program passes in Python to rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from hft_core.data.rows import Rows, Source, from_columns
from hft_core.errors import DataError


def from_python(value: Any, *, task: str) -> Rows:
    """Convert a `datasets.Dataset`, a pandas DataFrame or a list of dicts to rows; return `Rows` unchanged.

    Raises `DataError` for other types, and for data that is empty or not plain.
    """
    if isinstance(value, Rows):
        return value
    if not isinstance(value, Dataset | pd.DataFrame) and not (
        isinstance(value, list) and all(isinstance(record, Mapping) for record in value)
    ):
        raise DataError(
            f"the rows of task '{task}' are a {type(value).__name__}, expected a datasets.Dataset (of one split), a "
            f"pandas.DataFrame or a list of dicts"
        )
    origins = ([Source(task, "memory")], np.zeros(len(value), np.int32), np.arange(1, len(value) + 1))
    try:
        if isinstance(value, Dataset):
            rows = Rows(value.with_format(None), *origins)
        else:
            rows = from_columns(_columns_of(value), *origins)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"the rows of task '{task}' contain something that is not plain data: {error}") from None
    if len(rows) == 0:
        raise DataError(f"the rows of task '{task}' are empty, expected at least one row and one column")
    return rows


def _columns_of(value: pd.DataFrame | list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    if isinstance(value, list):
        names = dict.fromkeys(name for record in value for name in record)
        return {str(name): [_plain(record.get(name)) for record in value] for name in names}
    if len(set(map(str, value.columns))) < len(value.columns):
        raise ValueError("two columns have the same name")
    return {
        str(name): [None if empty else _plain(cell) for cell, empty in zip(cells, cells.isna(), strict=True)]
        for name, cells in value.astype(object).items()
    }


def _plain(value: Any) -> Any:
    """Convert numpy values to Python ones, and tuples to lists."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
