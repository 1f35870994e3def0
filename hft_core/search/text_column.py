"""Choose which column of a file holds the texts that are embedded."""

from __future__ import annotations

from collections.abc import Sequence

from hft_core.errors import DataError, did_you_mean
from hft_core.head import Column


def text_column(path: str, columns: Sequence[str], head: Sequence[Column], wanted: str | None, *, query: bool) -> str:
    """Return the column of the file `path`, which has `columns`, that is embedded by a head that reads `head`.

    The `wanted` one; else the one that the head reads, of several for a `query` the one that is not a target; else the
    only one. Raises `DataError`.
    """
    listed = ", ".join(map(repr, columns))
    if wanted is not None:
        if wanted not in columns:
            hint = did_you_mean(wanted, columns)
            known = hint if hint.startswith(" Did") else ""
            raise DataError(f"{path} has no column {wanted!r} (--text); its columns are {listed}.{known}")
        return wanted
    texts = [column for column in head if column.kind == "text" and not column.many]
    read = [column.name for column in texts if column.name in columns]
    asked = [column.name for column in texts if column.name in columns and not column.target]
    for found in ([asked[:1]] if query else []) + [read, list(columns)]:
        if len(found) == 1:
            return found[0]
    names = ", ".join(repr(column.name) for column in texts) or "no text column"
    raise DataError(f"{path} has the columns {listed}, and the task reads {names}: say by --text which one is embedded")
