"""Recognize the exports of annotation tools by their first records."""

from __future__ import annotations

from itertools import islice
from typing import Any

from hft_core.data.readers import json_lines, json_list
from hft_core.data.readers.records import Record
from hft_core.errors import DataError

_FIRST = 50
"""Records that are looked at: the first ones may have no answer."""


def export_format(path: str) -> str | None:
    """Return the format of an export (a value of the recipe's `format`); None for other files and unreadable ones."""
    name = path.lower().removesuffix(".gz")
    try:
        if name.endswith(".json"):
            return _first(_of_json(record) for _, record in islice(json_list.records(path), _FIRST))
        if name.endswith((".jsonl", ".ndjson")):
            return _first(_of_lines(record) for _, record in islice(json_lines.records(path), _FIRST))
    except DataError:  # told by who reads it
        pass
    return None


def _first(found: Any) -> str | None:
    return next((name for name in found if name is not None), None)


def _of_json(record: Record) -> str | None:
    if isinstance(record.get("data"), dict) and isinstance(record.get("annotations"), list):
        return "label-studio"
    if isinstance(record.get("fields"), dict) and "responses" in record:
        return "argilla"
    values = [value[0] if isinstance(value, list) and value else value for value in record.values()]
    marks = [value for value in values if isinstance(value, dict) and ("labels" in value or "choices" in value)]
    return "label-studio" if marks and "annotator" in record else None


def _of_lines(record: Record | DataError) -> str | None:
    if isinstance(record, DataError) or "text" not in record:
        return None
    if record.get("answer") in ("accept", "reject", "ignore"):
        return "prodigy"
    spans = record.get("label", record.get("labels", record.get("entities")))
    first = spans[0] if isinstance(spans, list) and spans else None
    as_list = isinstance(first, list) and [type(part) for part in first] == [int, int, str]
    return "doccano" if as_list or (isinstance(first, dict) and "start_offset" in first) else None
