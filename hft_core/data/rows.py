"""Hold the rows of one task with their origins."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from datasets import Dataset, LargeList, List, concatenate_datasets
from datasets.fingerprint import generate_random_fingerprint

from hft_core.data import arrow, features
from hft_core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


CHECK_BATCH = 10_000
"""Rows read at a time when rows are checked or joined; bounds memory."""

MAX_INTERNED = 10_000
"""A column with more distinct texts than this is not a label column, and its equal texts are not shared in memory."""

_ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}

_BREAKING = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories of control characters, lone surrogates and line breaks."""


@dataclass(frozen=True)
class Source:
    """The origin of consecutive rows."""

    name: str
    """A path as the user wrote it, or the task's name for rows passed in Python."""
    unit: Literal["row", "line", "file", "memory"]
    """The unit of a row in it; `file`: the whole file is one row."""
    commit: str = ""
    """Of a data set of the hub: the commit that was read."""

    def place(self, number: int) -> str:
        """Name the place of row `number` (from 1) in a message."""
        if self.unit == "file":
            return self.name
        if self.unit == "memory":
            return f"row {number} of task '{self.name}'"
        return f"{self.name}, {self.unit} {number}"


class Rows:
    """A `datasets.Dataset` with the origin of each row: two integers (source, number in it), for millions of rows."""

    def __init__(
        self,
        dataset: Dataset,
        sources: Sequence[Source],
        source_ids: ArrayLike,
        numbers: ArrayLike,
        mixed: Iterable[str] = (),
        notes: Iterable[str] = (),
    ) -> None:
        """`source_ids[i]` and `numbers[i]`: row i's source and its number in it; `mixed`: the columns of JSON text;
        `notes`: what a person should know of how the sources were read."""
        self.dataset = dataset
        self.sources = tuple(sources)
        self._source_ids: NDArray[np.int32] = np.asarray(source_ids, dtype=np.int32)
        self._numbers: NDArray[np.int32] = np.asarray(numbers, dtype=np.int32)
        self.mixed = frozenset(mixed)
        self.notes = tuple(notes)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self.dataset.column_names)

    def __len__(self) -> int:
        return len(self.dataset)

    def has(self, name: str) -> bool:
        """Return whether `name` can be read: a column, or `column.key` for a key of its objects."""
        return self._column_of(name) in self.dataset.column_names

    def __getitem__(self, column: str) -> list[Any]:
        """Return all values of a column (see `has`); equal labels share memory. Raises `KeyError` if there is none."""
        known: dict[str, str] = {}
        values: list[Any] = []
        for _, columns in self.batches(CHECK_BATCH, [column]):
            if len(known) <= MAX_INTERNED:
                values += [known.setdefault(v, v) if type(v) is str else v for v in columns[column]]
            else:
                values += columns[column]
        return values

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Rows:
        """Return the rows with these indices, in this order, without copying data."""
        kept = np.asarray(indices, dtype=np.int64)
        dataset = self.dataset.select(kept, keep_in_memory=True)
        return Rows(dataset, self.sources, self._source_ids[kept], self._numbers[kept], self.mixed, self.notes)

    def noted(self, note: str) -> Rows:
        """Return the same rows with a further note."""
        return Rows(self.dataset, self.sources, self._source_ids, self._numbers, self.mixed, (*self.notes, note))

    def where(self, i: int) -> str:
        """Return row i's place: `news.csv, row 17`, `articles.txt, line 3`, a path, or `row 17 of task 'topic'`."""
        return self.sources[int(self._source_ids[i])].place(int(self._numbers[i]))

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[tuple[range, dict[str, list[Any]]]]:
        """Yield consecutive batches of at most `size` rows: their indices, and their values by column (all columns, or
        these, as in `has`)."""
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
        """Return the columns that `names` refer to, each once."""
        return list(dict.fromkeys(map(self._column_of, names)))

    def _column_of(self, name: str) -> str:
        """Return the column that `name` refers to."""
        return name if name in self.dataset.column_names else name.partition(".")[0]

    def _decoded(self, name: str, values: list[Any]) -> list[Any]:
        """Return the values as in the source: class numbers as names, mixed columns parsed from JSON, and objects
        without the keys that only other rows have."""
        if name in self.mixed:
            return [None if v is None else json.loads(v) for v in values]
        feature = self.dataset.features[name]
        if features.holds_classes(feature):
            values = [features.with_names(value, feature) for value in values]
        return [_without_nulls(value) for value in values] if _holds_objects(feature) else values

    def origins(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return each row's index in `sources`, and its number there (from 1)."""
        return self._source_ids, self._numbers


def _holds_objects(feature: Any) -> bool:
    """Return whether values of the feature are, or are lists of, objects."""
    while isinstance(feature, List | LargeList):
        feature = feature.feature
    return isinstance(feature, dict)


def _without_nulls(value: Any) -> Any:
    """Drop the null keys of objects at any depth: a typed table gives each object the keys of all of them, as null."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _under(name: str, column: str, values: list[Any]) -> list[Any]:
    """Return the values under the further keys of the dotted `name`, for lists of objects as lists.

    None if an object lacks a key.
    """
    for key in name[len(column) :].split(".")[1:]:
        values = [_value_under(key, value) for value in values]
    return values


def _value_under(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_value_under(key, item) for item in value]
    return value.get(key) if isinstance(value, dict) else None


def from_columns(
    columns: Mapping[str, list[Any]],
    sources: Sequence[Source],
    ids: ArrayLike,
    numbers: ArrayLike,
    notes: Iterable[str] = (),
) -> Rows:
    """Build rows from Python values.

    Values of one type, or lists of values of one type, become a column of that type; others become a column of JSON
    text, so that no value is converted (`[1, "1", 1.0]`).
    """
    refuse_odd_names(columns, sources[0])
    arrays, mixed = {}, []
    for name, values in columns.items():
        array = _typed_array(values)
        if array is None:
            mixed.append(name)
            array = pa.array([None if v is None else json.dumps(v, default=str) for v in values], pa.string())
        arrays[name] = array
    return Rows(dataset_of(pa.table(arrays)), sources, ids, numbers, mixed, notes)


def refuse_odd_names(columns: Iterable[str], source: Source) -> None:
    """Raise `DataError` for a column name with a line break or control character."""
    for name in columns:
        if any(unicodedata.category(mark) in _BREAKING for mark in name):
            where = f"the rows of task '{source.name}'" if source.unit == "memory" else source.name
            raise DataError(f"{where}: the column name {name!r} contains a line break or another control character")


def dataset_of(table: pa.Table) -> Dataset:
    """Wrap the table as a dataset. Its fingerprint is random, since the default one hashes all data for a cache that is
    not used here. Raises `ValueError` for types of columns that cannot be read."""
    return Dataset(features.plain(table), fingerprint=generate_random_fingerprint())


def move_to_disk(rows: Rows) -> Rows:
    """Move the rows from memory to a memory-mapped file (see `hft_core.data.arrow`)."""
    table = arrow.move_to_disk(rows.dataset.data.table.combine_chunks())
    return Rows(dataset_of(table), rows.sources, *rows.origins(), rows.mixed, rows.notes)


def join(parts: Sequence[Rows]) -> Rows:
    """Concatenate rows. A column that a part lacks is None there."""
    if len(parts) == 1:
        return parts[0]
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    sources = tuple(dict.fromkeys(source for part in parts for source in part.sources))
    index = {source: i for i, source in enumerate(sources)}
    ids = np.concatenate([np.array([index[s] for s in part.sources], np.int32)[part.origins()[0]] for part in parts])
    numbers = np.concatenate([part.origins()[1] for part in parts])
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    first = parts[0]
    if all(part.dataset.features == first.dataset.features and part.mixed == first.mixed for part in parts):
        return Rows(concatenate_datasets([part.dataset for part in parts]), sources, ids, numbers, first.mixed, notes)
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for part in parts:
        for name in names:
            columns[name].extend(part[name] if name in part.columns else [None] * len(part))
    return from_columns(columns, sources, ids, numbers, notes)


def _typed_array(values: list[Any]) -> pa.Array | None:
    """Return values of one type, or lists of values of one type, as an Arrow array; None for mixed types."""
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
