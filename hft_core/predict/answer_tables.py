"""Convert a file of JSON lines to csv or Parquet, a few lines at a time."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hft_core.sanitize import json_text

LINES_AT_ONCE = 10_000


def convert(lines: Path, output: Path) -> None:
    """Write the JSON lines to `output`, in the format of its suffix: csv, tsv, parquet, or else as they are.

    `lines` may be gone afterwards. Raises `OSError`.
    """
    writer = _WRITERS.get(output.suffix.lower())
    if writer is None:
        os.replace(lines, output)
        return
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        writer(lines, temporary)
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)


def _parts(path: Path) -> Iterator[list[dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        while part := [json.loads(line) for line in islice(file, LINES_AT_ONCE)]:
            yield part


def _write_csv(lines: Path, output: Path, delimiter: str = ",") -> None:
    """Write a column for each key, `a.b` for the key b of an object a; lists are JSON text."""
    names = dict.fromkeys(name for part in _parts(lines) for line in part for name in _flat(line))
    with output.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(names), delimiter=delimiter, lineterminator="\n")
        table.writeheader()
        for part in _parts(lines):
            table.writerows(map(_flat, part))


def _flat(line: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, value in line.items():
        if isinstance(value, dict) and value:
            cells |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | dict | bool):
            cells[prefix + name] = json_text(value)
        else:
            cells[prefix + name] = value
    return cells


def _write_tsv(lines: Path, output: Path) -> None:
    _write_csv(lines, output, "\t")


def _write_parquet(lines: Path, output: Path) -> None:
    """Write typed columns; one whose values have no type in common is JSON text."""
    kinds: dict[str, pa.DataType | None] = {}
    for part in _parts(lines):
        for name in dict.fromkeys(name for line in part for name in line):
            values = [line.get(name) for line in part]
            kinds[name] = _common(kinds.get(name, pa.null()), values)
    text = {name for name, kind in kinds.items() if kind is None}
    schema = pa.schema([(name, pa.string() if kind is None else kind) for name, kind in kinds.items()])
    with pq.ParquetWriter(output, schema) as writer:
        for part in _parts(lines):
            rows = [{name: json_text(cell) if name in text else cell for name, cell in line.items()} for line in part]
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _common(kind: pa.DataType | None, values: list[Any]) -> pa.DataType | None:
    """Return a type for the values and those before, which have the type `kind`; None if there is none."""
    if kind is None:
        return None
    try:
        found = pa.array(values).type
        fields = [pa.schema([("column", each)]) for each in (kind, found)]
        return pa.unify_schemas(fields, promote_options="permissive").field("column").type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return None


_WRITERS: dict[str, Callable[[Path, Path], None]] = {
    ".csv": _write_csv,
    ".tsv": _write_tsv,
    ".parquet": _write_parquet,
}
