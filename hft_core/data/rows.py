"""The rows of one task, each with the place it came from, and the checks that a head's columns ask for."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, LargeList, List, concatenate_datasets
from datasets.fingerprint import generate_random_fingerprint

from hft_core.data import arrow
from hft_core.data.cells import as_label, as_list, as_number, expected, problem
from hft_core.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from hft_core.head import Column

__all__ = [
    "Rows",
    "Source",
    "as_label",
    "as_list",
    "as_number",
    "check",
    "check_each",
    "dataset_of",
    "from_columns",
    "join",
    "nearest",
    "need_column",
    "refuse_odd_names",
]

CHECK_BATCH = 10_000
"""Rows looked at together when rows are checked or joined; bounds the memory that takes."""

LABELS = 10_000
"""A column with more different texts than this is none of labels, of which many rows have the same."""

_ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}

_BREAKING = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories of control characters, lone surrogates and line breaks."""


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

    def has(self, name: str) -> bool:
        """Whether `name` can be read: a column, or `column.key` for what its objects hold under a key."""
        return self._column_of(name) in self.dataset.column_names

    def __getitem__(self, column: str) -> list[Any]:
        """All values of a column (see `has`), equal texts once in memory. Raises `KeyError` when there is none."""
        known: dict[str, str] = {}
        found: list[Any] = []
        for _, columns in self.batches(CHECK_BATCH, [column]):
            if len(known) <= LABELS:
                found += [known.setdefault(v, v) if type(v) is str else v for v in columns[column]]
            else:
                found += columns[column]
        return found

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Rows:
        """The rows with these indices, in this order; no data is copied."""
        kept = np.asarray(indices, dtype=np.int64)
        dataset = self.dataset.select(kept, keep_in_memory=True)
        return Rows(dataset, self.sources, self._source_ids[kept], self._numbers[kept], self.mixed)

    def where(self, i: int) -> str:
        """Row i's place: `news.csv, row 17`, `articles.txt, line 3`, a path, or `row 17 of task 'topic'`."""
        return self.sources[int(self._source_ids[i])].place(int(self._numbers[i]))

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[tuple[range, dict[str, list[Any]]]]:
        """Consecutive runs of at most `size` rows: their indices and their values by column (all columns, or these, as
        in `has`)."""
        wanted = {name: self._column_of(name) for name in (self.columns if columns is None else columns)}
        for name, column in wanted.items():
            if column not in self.dataset.column_names:
                raise KeyError(name)
        view = self.dataset.select_columns(list(dict.fromkeys(wanted.values())))
        for start in range(0, len(self), size):
            indices = range(start, min(start + size, len(self)))
            batch = view[indices.start : indices.stop]
            decoded = {column: self._decoded(column, values) for column, values in batch.items()}
            yield indices, {name: _under(name, column, decoded[column]) for name, column in wanted.items()}

    def columns_of(self, names: Iterable[str]) -> list[str]:
        """The columns that `names` are or lead into, each once."""
        return list(dict.fromkeys(map(self._column_of, names)))

    def _column_of(self, name: str) -> str:
        """The column that `name` is or leads into."""
        return name if name in self.dataset.column_names else name.partition(".")[0]

    def _decoded(self, name: str, values: list[Any]) -> list[Any]:
        """The values as they were written: class numbers by their names, mixed columns out of their JSON text."""
        if name in self.mixed:
            return [None if v is None else json.loads(v) for v in values]
        feature = self.dataset.features[name]
        if isinstance(feature, ClassLabel):
            return _named(values, feature)
        if isinstance(feature, List | LargeList) and isinstance(feature.feature, ClassLabel):
            return [None if cell is None else _named(cell, feature.feature) for cell in values]
        return values

    def origins(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Each row's index in `sources`, and its number there (from 1)."""
        return self._source_ids, self._numbers


def _named(numbers: list[int | None], feature: ClassLabel) -> list[str | None]:
    names = feature.names
    return [names[number] if number is not None and 0 <= number < len(names) else None for number in numbers]


def _under(name: str, column: str, values: list[Any]) -> list[Any]:
    """What the objects in `values` of `column` hold under the further keys of the dotted `name`; None where there is no
    such key. Of a list of objects, the list of what each holds."""
    for key in name[len(column) :].split(".")[1:]:
        values = [_value_under(key, value) for value in values]
    return values


def _value_under(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_value_under(key, one) for one in value]
    return value.get(key) if isinstance(value, dict) else None


def from_columns(
    columns: Mapping[str, list[Any]], sources: Sequence[Source], ids: ArrayLike, numbers: ArrayLike
) -> Rows:
    """Rows from Python values. Values of one type, or lists of values of one type, become a column of that type; any
    others a column of JSON text, so that nothing is converted: in `[1, "1", 1.0]` each value stays what it is."""
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


def move_to_disk(rows: Rows) -> Rows:
    """Move the rows from memory to a memory-mapped file (see `hft_core.data.arrow`)."""
    table = arrow.move_to_disk(rows.dataset.data.table.combine_chunks())
    return Rows(dataset_of(table), rows.sources, *rows.origins(), rows.mixed)


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
        need_column(rows, column.name, f"{expected(column)} in each row", task=task, split=split)

    def first_problem(row: Mapping[str, Any]) -> str:
        found = ((column.name, problem(row[column.name], column)) for column in wanted)
        return next((f"column {name!r}: {fault}" for name, fault in found if fault), "")

    check_each(rows, first_problem, [column.name for column in wanted], task=task, split=split)


def check_each(
    rows: Rows, fault: Callable[[Mapping[str, Any]], str], columns: Iterable[str], *, task: str, split: str | None
) -> None:
    """Raise one `DataError` for the first row of which `fault` says something (a head's `check`, for instance).

    `fault` gets a row's values of `columns`.
    """
    first, bad = "", 0
    names = list(dict.fromkeys(columns))
    for indices, batch in rows.batches(CHECK_BATCH, names):
        for i, values in zip(indices, zip(*batch.values(), strict=True), strict=True):
            found = fault(dict(zip(names, values, strict=True)))
            if found:
                bad += 1
                first = first or f"{rows.where(i)}: {found}"
    if bad:
        more = f" (and {bad - 1} more row{'s' if bad > 2 else ''})" if bad > 1 else ""
        raise DataError(f"{_title(task, split)}: {first}{more}")


def need_column(rows: Rows, name: str, why: str, *, task: str, split: str | None = None) -> None:
    """Raise a `DataError` that names the columns there are, and the nearest one, unless `name` is one of them."""
    have = rows.columns
    if rows.has(name):
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


def _typed(values: list[Any]) -> pa.Array | None:
    """The values as an Arrow array of their one type (or of lists of one type), or None when they have no such type."""
    kinds = {type(value) for value in values} - {type(None)}
    lists = kinds == {list}
    if lists:
        kinds = {type(item) for value in values if value is not None for item in value} - {type(None)}
    if len(kinds) > 1 or not kinds <= _ARROW_TYPES.keys():
        return None
    kind = _ARROW_TYPES[kinds.pop()] if kinds else pa.string()
    try:
        return pa.array(values, pa.list_(kind) if lists else kind)
    except (OverflowError, pa.ArrowInvalid, UnicodeEncodeError):  # beyond 64 bits; half of a surrogate pair
        return None
