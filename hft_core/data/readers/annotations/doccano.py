"""Read exports of doccano: JSONL with `label` (labels, texts, or spans as `[start, end, label]`) or `entities` (spans).

The writers of these forms: doccano, `backend/data_export/pipeline/formatters.py`. Offsets count characters.
"""

from __future__ import annotations

from typing import Any

from hft_core.data.readers import json_lines
from hft_core.data.readers.annotations.items import Answer, Export, Item, span
from hft_core.data.readers.annotations.table import rows_of
from hft_core.data.readers.records import Record, only_good
from hft_core.data.rows import Rows, Source
from hft_core.errors import DataError

_ANSWERS = ("label", "labels", "entities")
_NOT_READ = ("Comments", "relations")


def read(path: str) -> Rows:
    """Read an export. Raises `DataError`."""
    source, export = Source(path, "line"), Export()
    for number, record in only_good(json_lines.records(path)):
        export.items.append(_item(record, number, source.place(number)))
    if not export.items:
        raise DataError(f"{path}: no data in it, expected at least one line")
    return rows_of(export, source)


def _item(record: Record, number: int, place: str) -> Item:
    named = [name for name in _ANSWERS if name in record]
    text = record.get("text", record.get("data"))
    if len(named) != 1 or not isinstance(text, str):
        raise DataError(
            f"{place}: expected 'text' and one of {', '.join(map(repr, _ANSWERS))}, as doccano writes them; found "
            f"{', '.join(map(repr, record))}"
        )
    answers = record[named[0]]
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list):
        raise DataError(f"{place}: expected a list in '{named[0]}', found {answers!r}")
    columns = {name: value for name, value in record.items() if name not in (*_ANSWERS, *_NOT_READ, "data")}
    return Item(number, {**columns, "text": text}, {"label": [_answer(answers, text, place)]}, "text")


def _answer(answers: list[Any], text: str, place: str) -> Answer:
    if all(isinstance(answer, str) for answer in answers):
        return tuple(answers)
    spans = []
    for answer in answers:
        if isinstance(answer, list) and len(answer) == 3:
            start, end, label = answer
            spans.append(span(text, start, end, label, place))
        elif isinstance(answer, dict):
            spans.append(span(text, answer.get("start_offset"), answer.get("end_offset"), answer.get("label"), place))
        else:
            raise DataError(f"{place}: expected labels, or spans as [start, end, label], found {answer!r}")
    return tuple(spans)
