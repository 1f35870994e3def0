"""The rows of one task, each with the place it came from, and the checks that a head's columns ask for."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, concatenate_datasets
from datasets.fingerprint import generate_random_fingerprint

from hft_core.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from hft_core.head import Column

CHECK_BATCH = 10_000
"""Rows looked at together when rows are checked or joined; bounds the memory that takes."""

_ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}

_BREAKING = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories of control characters, lone surrogates and line breaks."""

EXPECTED = {
    "text": "a non-empty text",
    "label": "a label (text, a whole number or true/false)",
    "number": "a finite number",
}


@dataclass(frozen=True)
class Source:
    """What a run of rows was read from."""

    name: str
    """A path as the user wrote it, or the task's name for rows passed in Python."""
    unit: Literal["row", "line", "file", "memory"]
    """What a row is there; `file`: the whole file is one row."""

    def place(self, number: int) -> str:
        """Where row `number` (from 1) is, for a person."""
        if self.unit == "file":
            return self.name
        if self.unit == "memory":
            return f"row {number} of task '{self.name}'"
        return f"{self.name}, {self.unit} {number}"


class Rows:
    """A `datasets.Dataset` whose rows know where they came from.

    Origins are two integers a row (which source, which number in it), since there may be millions of rows.
    """

    def __init__(
        self,
        dataset: Dataset,
        sources: Sequence[Source],
        source_ids: ArrayLike,
        numbers: ArrayLike,
        mixed: Iterable[str] = (),
    ) -> None:
        """`source_ids[i]` and `numbers[i]` give row i's place in `sources`; the columns `mixed` hold JSON text."""
        self.dataset = dataset
        self.sources = tuple(sources)
        self._source_ids: NDArray[np.int32] = np.asarray(source_ids, dtype=np.int32)
        self._numbers: NDArray[np.int32] = np.asarray(numbers, dtype=np.int32)
        self.mixed = frozenset(mixed)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self.dataset.column_names)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, column: str) -> list[Any]:
        """All values of a column. Raises `KeyError` when there is no such column."""
        return next(self.batches(max(len(self), 1), [column]), ([], {column: []}))[1][column]

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Rows:
        """The rows with these indices, in this order; no data is copied."""
        kept = np.asarray(indices, dtype=np.int64)
        dataset = self.dataset.select(kept, keep_in_memory=True)
        return Rows(dataset, self.sources, self._source_ids[kept], self._numbers[kept], self.mixed)

    def where(self, i: int) -> str:
        """Row i's place: `news.csv, row 17`, `articles.txt, line 3`, a path, or `row 17 of task 'topic'`."""
        return self.sources[int(self._source_ids[i])].place(int(self._numbers[i]))

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[tuple[range, dict[str, list[Any]]]]:
        """Consecutive runs of at most `size` rows: their indices and their values by column (all columns, or these)."""
        wanted = self.columns if columns is None else list(columns)
        for name in wanted:
            if name not in self.dataset.column_names:
                raise KeyError(name)
        view = self.dataset.select_columns(wanted)
        for start in range(0, len(self), size):
            indices = range(start, min(start + size, len(self)))
            batch = view[indices.start : indices.stop]
            yield indices, {name: self._decoded(name, batch[name]) for name in wanted}

    def _decoded(self, name: str, values: list[Any]) -> list[Any]:
        """The values as they were written: class numbers by their names, mixed columns out of their JSON text."""
        feature = self.dataset.features[name]
        if isinstance(feature, ClassLabel):
            return [feature.names[v] if v is not None and 0 <= v < len(feature.names) else None for v in values]
        return [None if v is None else json.loads(v) for v in values] if name in self.mixed else values

    def origins(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Each row's index in `sources`, and its number there (from 1)."""
        return self._source_ids, self._numbers


def from_columns(
    columns: Mapping[str, list[Any]], sources: Sequence[Source], ids: ArrayLike, numbers: ArrayLike
) -> Rows:
    """Rows from Python values. Values of one type become a column of that type; any others a column of JSON text, so
    that nothing is converted: in `[1, "1", 1.0]` each value stays what it is."""
    refuse_odd_names(columns, sources[0])
    arrays, mixed = {}, []
    for name, values in columns.items():
        array = _typed(values)
        if array is None:
            mixed.append(name)
            array = pa.array([None if v is None else json.dumps(v, default=str) for v in values], pa.string())
        arrays[name] = array
    return Rows(dataset_of(pa.table(arrays)), sources, ids, numbers, mixed)


def refuse_odd_names(columns: Iterable[str], source: Source) -> None:
    """Raise a `DataError` for a column name that would break an error's line, or Arrow."""
    for name in columns:
        if any(unicodedata.category(mark) in _BREAKING for mark in name):
            where = f"the rows of task '{source.name}'" if source.unit == "memory" else source.name
            raise DataError(f"{where}: the column name {name!r} holds a line break or another control character")


def dataset_of(table: pa.Table) -> Dataset:
    """The table as a dataset. The fingerprint is random because the default one reads all the data, for a cache of
    transformed data sets that is not used here."""
    return Dataset(table, fingerprint=generate_random_fingerprint())


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, in order. A column that a part lacks is None there."""
    if len(parts) == 1:
        return parts[0]
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    sources = tuple(dict.fromkeys(source for part in parts for source in part.sources))
    index = {source: i for i, source in enumerate(sources)}
    ids = np.concatenate([np.array([index[s] for s in part.sources], np.int32)[part.origins()[0]] for part in parts])
    numbers = np.concatenate([part.origins()[1] for part in parts])
    first = parts[0]
    if all(part.dataset.features == first.dataset.features and part.mixed == first.mixed for part in parts):
        return Rows(concatenate_datasets([part.dataset for part in parts]), sources, ids, numbers, first.mixed)
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for part in parts:
        for name in names:
            columns[name].extend(part[name] if name in part.columns else [None] * len(part))
    return from_columns(columns, sources, ids, numbers)


def check(
    rows: Rows, columns: Sequence[Column], *, task: str, split: str | None = None, need_targets: bool = True
) -> None:
    """Raise one `DataError` for the first row that lacks what `columns` ask for, with the count of further bad rows.

    Without `need_targets` the target columns are not looked at: rows to predict on may lack them.
    """
    wanted = [column for column in columns if need_targets or not column.target]
    for column in wanted:
        need_column(rows, column.name, f"{EXPECTED[column.kind]} in each row", task=task, split=split)

    def problem(row: Mapping[str, Any]) -> str:
        for column in wanted:
            value = row[column.name]
            if not _fits(value, column.kind):
                return f"column {column.name!r}: found {_shown(value)}, expected {EXPECTED[column.kind]}"
        return ""

    check_each(rows, problem, [column.name for column in wanted], task=task, split=split)


def check_each(
    rows: Rows, problem: Callable[[Mapping[str, Any]], str], columns: Iterable[str], *, task: str, split: str | None
) -> None:
    """Raise one `DataError` for the first row of which `problem` says something (a head's `check`, for instance).

    `problem` gets a row's values of `columns`.
    """
    first, bad = "", 0
    names = list(dict.fromkeys(columns))
    for indices, batch in rows.batches(CHECK_BATCH, names):
        for i, values in zip(indices, zip(*batch.values(), strict=True), strict=True):
            found = problem(dict(zip(names, values, strict=True)))
            if found:
                bad += 1
                first = first or f"{rows.where(i)}: {found}"
    if bad:
        more = f" (and {bad - 1} more row{'s' if bad > 2 else ''})" if bad > 1 else ""
        raise DataError(f"{_title(task, split)}: {first}{more}")


def need_column(rows: Rows, name: str, why: str, *, task: str, split: str | None = None) -> None:
    """Raise a `DataError` that names the columns there are, and the nearest one, unless `name` is one of them."""
    have = rows.columns
    if name in have:
        return
    hint = nearest(name, have)
    if len(have) == 1 and any(mark in have[0] for mark in ";|\t"):
        hint = " The header is a single cell: cells are separated by commas in csv, by tabs in tsv."
    source = rows.sources[0]
    where = "the data" if source.unit == "memory" else source.name
    columns = ", ".join(map(repr, have))
    raise DataError(f"{_title(task, split)}: {where} has no column {name!r} ({why}); its columns are {columns}.{hint}")


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing where no known name is near (and where a list of all would be too long)."""
    hint = did_you_mean(name, known)
    return hint if hint.startswith(" Did") else ""


def _title(task: str, split: str | None) -> str:
    return f"task '{task}'" + (f" ({split})" if split else "")


def as_label(value: Any) -> str:
    """A label by its text: true and false for booleans, digits for integers, text without blanks around it.

    So `1` in a JSON file and `1` in a CSV file are the same class, and a stray blank does not make a new one.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip()


def as_number(value: Any) -> float:
    """A number, or a text that is one (as in a CSV file). Raises `ValueError` for all else, infinities included."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or (isinstance(value, str) and "_" in value):
        raise ValueError(f"not a number: {value!r}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("the number is too large") from None
    if not math.isfinite(number):
        raise ValueError(f"not a finite number: {value!r}")
    return number


def _typed(values: list[Any]) -> pa.Array | None:
    """The values as an Arrow array of their one type, or None when they have no such type."""
    kinds = {type(value) for value in values} - {type(None)}
    if len(kinds) > 1 or not kinds <= _ARROW_TYPES.keys():
        return None
    try:
        return pa.array(values, _ARROW_TYPES[kinds.pop()] if kinds else pa.string())
    except (OverflowError, pa.ArrowInvalid, UnicodeEncodeError):  # beyond 64 bits; half of a surrogate pair
        return None


def _fits(value: Any, kind: str) -> bool:
    if kind == "number":
        try:
            as_number(value)
        except ValueError:
            return False
        return True
    if isinstance(value, str):
        return bool(value.strip()) and not _has_lone_surrogate(value)
    return kind == "label" and isinstance(value, int)


def _has_lone_surrogate(text: str) -> bool:
    """A JSON file can write half of a surrogate pair; no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _shown(value: Any) -> str:
    """The value in at most 40 characters, on one line."""
    if value is None:
        return "nothing (null, or no such key)"
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
