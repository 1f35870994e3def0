"""Read exports of Prodigy (`prodigy db-out`): JSONL with `answer` and `spans`, `accept` or `label`.

Records of equal texts are one item: those of several annotators or sessions, and accepted labels that were asked for
one by one.
"""

from __future__ import annotations

from typing import Any

from hft_core.data.readers import json_lines
from hft_core.data.readers.annotations.items import Answer, Export, Item, Span, span
from hft_core.data.readers.annotations.table import rows_of
from hft_core.data.readers.records import Record, only_good
from hft_core.data.rows import Rows, Source
from hft_core.errors import DataError

SPANS, LABEL = "spans", "label"
_OWN = ("spans", "tokens", "accept", "options", "label", "answer", "config")
"""Keys of a record that are not columns of the row, as those that begin with an underscore."""


def read(path: str) -> Rows:
    """Read an export. Raises `DataError`."""
    source, export = Source(path, "line"), Export()
    found: dict[str, list[tuple[int, Record]]] = {}
    for number, record in only_good(json_lines.records(path)):
        if not isinstance(record.get("text"), str):
            raise DataError(f"{source.place(number)}: expected a 'text', as Prodigy's text interfaces write it")
        if record.get("answer") != "accept":
            export.left_out["rejected" if record.get("answer") == "reject" else "ignored or not answered"] += 1
        else:
            found.setdefault(record["text"], []).append((number, record))
    export.items += [_item(records, source) for records in found.values()]
    if not export.items and not export.left_out:
        raise DataError(f"{path}: no data in it, expected at least one line")
    return rows_of(export, source)


def _item(records: list[tuple[int, Record]], source: Source) -> Item:
    """Return the item of all records about one text."""
    number, first = records[0]
    spans: dict[str, Answer] = {}
    labels: dict[str, tuple[str, ...]] = {}
    for at, record in records:
        who = str(record.get("_annotator_id", record.get("_session_id")))
        if "accept" in record:
            labels[who] = tuple(map(str, record["accept"]))
        elif "label" in record:
            labels[who] = tuple(dict.fromkeys((*labels.get(who, ()), str(record["label"]))))
        if record.get("spans") or ("spans" in record and "accept" not in record and "label" not in record):
            spans[who] = _spans(record, source.place(at))
    answers: dict[str, list[Answer]] = {}
    if spans:
        answers[SPANS] = list(spans.values())
    if labels:
        answers[LABEL] = list(labels.values())
    columns = {name: value for name, value in first.items() if name not in _OWN and not name.startswith("_")}
    return Item(number, columns, answers, "text", _words(first, source.place(number)))


def _spans(record: Record, place: str) -> tuple[Span, ...]:
    text = record["text"]
    return tuple(span(text, one.get("start"), one.get("end"), one.get("label"), place) for one in record["spans"])


def _words(record: Record, place: str) -> list[tuple[int, int]] | None:
    """Return the characters of each token of Prodigy's; None where it wrote none."""
    tokens: list[Any] = record.get("tokens") or []
    words = [(token.get("start"), token.get("end")) for token in tokens if str(token.get("text", "")).strip()]
    if not all(isinstance(at, int) for word in words for at in word):
        raise DataError(f"{place}: a token without the numbers 'start' and 'end'")
    return words or None
