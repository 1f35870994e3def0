"""Keep of the column types that `datasets` writes into a table only what is text or its class.

An image, audio or video column would be decoded when it is read, from the file or URL that a row names.
"""

from __future__ import annotations

from typing import Any

import datasets
import pyarrow as pa
from datasets import ClassLabel, Features, LargeList, List

KEPT = (ClassLabel, *((datasets.Json,) if hasattr(datasets, "Json") else ()))
"""Types that are decoded from nothing but their cell; older versions of `datasets` have no `Json`."""


def plain(table: pa.Table) -> pa.Table:
    """Return the table with its class labels (and `Json`), and all other columns as they are stored.

    Raises `ValueError` for types that cannot be read.
    """
    if b"huggingface" not in (table.schema.metadata or {}):
        return table
    stored = Features.from_arrow_schema(table.schema.remove_metadata())
    try:
        written = Features.from_arrow_schema(table.schema)
    except Exception as error:  # a stranger's JSON makes it raise anything
        raise ValueError(f"datasets cannot read the types of its columns: {error}") from None
    kept = Features({name: _kept(written.get(name), feature) for name, feature in stored.items()})
    return table.replace_schema_metadata(kept.arrow_schema.metadata)


def _kept(written: Any, stored: Any) -> Any:
    if isinstance(written, KEPT):
        return written
    if isinstance(written, List | LargeList) and isinstance(stored, List | LargeList):
        inner = _kept(written.feature, stored.feature)
        return LargeList(inner) if isinstance(stored, LargeList) else List(inner, length=stored.length)
    if isinstance(written, dict) and isinstance(stored, dict):
        return {key: _kept(written.get(key), feature) for key, feature in stored.items()}
    return stored


def with_names(value: Any, feature: Any) -> Any:
    """Return a cell with the names of its classes in place of their numbers, at any depth; None for no class."""
    if value is None:
        return None
    if isinstance(feature, ClassLabel):
        names = feature.names
        return names[value] if 0 <= value < len(names) else None
    if isinstance(feature, List | LargeList):
        return [with_names(item, feature.feature) for item in value]
    if isinstance(feature, dict):
        return {key: with_names(item, feature.get(key)) for key, item in value.items()}
    return value


def holds_classes(feature: Any) -> bool:
    """Return whether the feature is, or holds, class labels."""
    if isinstance(feature, List | LargeList):
        return holds_classes(feature.feature)
    return isinstance(feature, ClassLabel) or (isinstance(feature, dict) and any(map(holds_classes, feature.values())))
