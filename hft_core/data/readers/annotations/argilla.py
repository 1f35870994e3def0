"""Read exports of Argilla 2 (`dataset.records.to_json`): a list of records with `fields` and `responses`.

What a response is: argilla, `argilla/src/argilla/responses.py`. Suggestions are of models and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hft_core.data.readers import json_list
from hft_core.data.readers.annotations.items import Answer, Export, Item, span
from hft_core.data.readers.annotations.table import NO_ANSWER, rows_of
from hft_core.data.readers.records import Record
from hft_core.data.rows import Rows, Source
from hft_core.errors import DataError

_NOT_ANSWERED = ("discarded", "draft")
"""Statuses of responses that are left out."""


def read(path: str) -> Rows:
    """Read an export. Raises `DataError`."""
    source, export = Source(path, "row"), Export()
    for number, record in json_list.records(path):
        _add(record, number, source.place(number), export)
    return rows_of(export, source)


def _add(record: Record, number: int, place: str, export: Export) -> None:
    fields, responses = record.get("fields"), record.get("responses")
    if not isinstance(fields, dict) or not isinstance(responses, dict | None):
        raise DataError(f"{place}: expected the objects 'fields' and 'responses', as in Argilla's records")
    answers: dict[str, list[Answer]] = {}
    column = ""
    for question, given in (responses or {}).items():
        kept = [one for one in given if one.get("status") not in _NOT_ANSWERED]
        if kept:
            read = [_answer(one.get("value"), fields, place) for one in kept]
            answers[question] = [answer for _, answer in read]
            column = next((name for name, _ in read if name), column)
    if not answers:
        export.left_out["discarded" if responses else NO_ANSWER] += 1
        return
    metadata = record.get("metadata") or {}
    export.items.append(Item(number, {**metadata, **fields}, answers, column))


def _answer(value: Any, fields: Mapping[str, Any], place: str) -> tuple[str, Answer]:
    """Return the column that spans are of, and the answer."""
    if isinstance(value, str):
        return "", (value,)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "", float(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return "", tuple(value)
    if isinstance(value, list) and all(isinstance(one, dict) and "start" in one for one in value):
        column = _text_column(fields, place)
        found = [span(fields[column], one["start"], one.get("end"), one.get("label"), place) for one in value]
        return column, tuple(found)
    raise DataError(f"{place}: expected labels, a number, a text or spans as a response, found {value!r:.80}")


def _text_column(fields: Mapping[str, Any], place: str) -> str:
    """Return the field that spans are of: `text`, or the only one that is a text."""
    texts = [name for name, value in fields.items() if isinstance(value, str)]
    if "text" not in texts and len(texts) != 1:
        raise DataError(
            f"{place}: spans, and several fields that are texts ({', '.join(texts)}); expected one, or 'text'"
        )
    return "text" if "text" in texts else texts[0]
