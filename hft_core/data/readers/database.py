"""Read the rows that a SELECT statement finds in a database file: DuckDB (an extra), or SQLite.

A statement of somebody else's reads that file and nothing else: the connection is read-only, DuckDB opens no other file
or address and loads no extension, and SQLite is allowed nothing but to select.
"""

from __future__ import annotations

import datetime as dt
import decimal
import os
import re
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hft_core.data.readers.records import NumberedRecords, pack
from hft_core.data.row_checks import nearest
from hft_core.data.rows import Rows, Source
from hft_core.errors import DataError
from hft_core.file_guard import open_regular

FETCHED = 5_000
"""Rows of the result that are in memory at a time."""
_LOCKED: dict[str, Any] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "lock_configuration": "true",
    "threads": "1",  # more return rows that ORDER BY does not tell apart in any order
}
_ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
_SELECT = re.compile(r"(?>\s|--[^\n]*|/\*.*?\*/)*+(?:select|with)\b", re.IGNORECASE | re.DOTALL)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_INNER = re.compile(r"\([^()]*\)")
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)
_RANDOM_ORDER = re.compile(r"\border\s+by\b[^()]*\brandom\s*\(\s*\)", re.IGNORECASE)


def read(database: str, statement: str, split: str) -> Rows:
    """Read the result of a statement; `split`: the one that it is for, for messages. Raises `DataError`."""
    path = os.path.expanduser(database)  # noqa: PTH111 (pathlib's raises for an unknown user)
    where = f"{database} (sql{'.' if split else ''}{split})"
    _refuse_other(statement, where)
    source = Source(where, "row")
    try:
        rows = _of_duckdb if _is_duckdb(path) else _of_sqlite
        return pack(_records(rows(path, statement), where), source)
    except DataError:
        raise
    except Exception as error:  # of the database, or of a damaged file
        raise DataError(f"{where}: {' '.join(str(error).split())[:400]}") from None


def _refuse_other(statement: str, where: str) -> None:
    """Raise `DataError` unless the statement is a SELECT that says in which order its rows come."""
    if not _SELECT.match(statement):
        raise DataError(f"{where}: expected one SELECT statement, found {statement.strip()[:40]!r}")
    outer = _QUOTED.sub(" ", statement)
    if _RANDOM_ORDER.search(outer):
        raise DataError(f"{where}: ORDER BY random() gives another order each time; expected columns")
    while (less := _INNER.sub(" ", outer)) != outer:
        outer = less
    if not _ORDER.search(outer):
        raise DataError(
            f"{where}: expected ORDER BY and columns that tell the rows apart: without it a database may return them "
            "in another order the next time, and the run would be another one, or not be resumed"
        )


def _is_duckdb(path: str) -> bool:
    """Tell the two kinds of database apart by their first bytes. Raises `DataError` for another file."""
    try:
        with open_regular(path) as file:
            start = file.read(16)
    except FileNotFoundError:
        folder = Path(path).parent
        siblings = os.listdir(folder) if folder.is_dir() else []
        raise DataError(f"there is no database {path!r}.{nearest(Path(path).name, siblings)}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if start != b"SQLite format 3\0" and start[8:12] != b"DUCK":
        raise DataError(f"{path}: expected a database of DuckDB or SQLite (its first bytes are of neither)")
    return start[8:12] == b"DUCK"


Result = Iterator[tuple[Any, ...]]
"""The names of the columns, then the rows."""


def _of_duckdb(path: str, statement: str) -> Result:
    try:
        import duckdb  # an extra
    except ModuleNotFoundError:
        raise DataError(f"{path}: databases of DuckDB need the package duckdb: pip install 'hft-core[sql]'") from None
    with closing(duckdb.connect(path, read_only=True, config=_LOCKED)) as connection:
        statements = connection.extract_statements(statement)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise DataError(f"{path}: expected one SELECT statement, found {len(statements)} statements")
        yield from _fetched(connection.execute(statements[0]))


def _of_sqlite(path: str, statement: str) -> Result:
    address = f"file:{quote(str(Path(path).absolute()))}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")  # no function with effects in a stranger's views
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
        yield from _fetched(connection.execute(statement))


def _fetched(result: Any) -> Result:
    yield tuple(column[0] for column in result.description)
    while rows := result.fetchmany(FETCHED):
        yield from rows


def _records(result: Result, where: str) -> NumberedRecords:
    names = next(result)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{where}: two columns are called {twice!r}; name one of them otherwise (AS)")
    for number, values in enumerate(result, start=1):
        cells = {name: _plain(value) for name, value in zip(names, values, strict=True)}
        if blob := next((name for name, cell in cells.items() if _holds_bytes(cell)), None):
            raise DataError(f"{where}, row {number}: column {blob!r} holds bytes, expected text (CAST({blob} AS TEXT))")
        yield number, cells


def _holds_bytes(cell: Any) -> bool:
    inner = cell.values() if isinstance(cell, dict) else cell if isinstance(cell, list) else ()
    return isinstance(cell, bytes | bytearray | memoryview) or any(map(_holds_bytes, inner))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: a decimal as a number, a date as `2026-05-01`."""
    if isinstance(value, decimal.Decimal):
        return float(value) if int(value.as_tuple().exponent) < 0 else int(value)
    if isinstance(value, dt.datetime) and value.tzinfo is not None:  # in the time zone of the machine
        value = value.astimezone(dt.UTC)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID | dt.timedelta):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
