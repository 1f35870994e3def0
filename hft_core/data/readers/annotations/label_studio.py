"""Read exports of Label Studio: `JSON`, a list of tasks with the annotations of each annotator, and `JSON_MIN`.

The form of a task and of its results: https://labelstud.io/guide/task_format
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hft_core.data.readers import json_list
from hft_core.data.readers.annotations.items import Answer, Export, Item, Span, has_two_units, span
from hft_core.data.readers.annotations.table import NO_ANSWER, rows_of
from hft_core.data.readers.records import Record
from hft_core.data.rows import Rows, Source
from hft_core.errors import DataError

_SPANS = ("labels", "hypertextlabels", "paragraphlabels")
_NUMBERS = ("number", "rating")
_READ = ("choices", "labels", "number", "pairwise", "rating", "textarea")
"""Types of results that are read."""
_OF_RELATIONS = ("relation",)
"""Types of results that are left out: they say how spans belong together."""


def read(path: str) -> Rows:
    """Read an export. Raises `DataError`."""
    source, export = Source(path, "row"), Export()
    seen: set[Any] = set()
    for number, record in json_list.records(path):
        place = source.place(number)
        if isinstance(record.get("data"), dict):
            _add_task(record, number, place, export)
        else:
            if "id" in record and record["id"] in seen:
                raise DataError(
                    f"{place}: the item {record['id']} stands there twice, as JSON_MIN writes what several annotators "
                    "answered; expected an export as JSON, which keeps them apart"
                )
            seen.add(record.get("id"))
            export.items.append(_of_minimal(record, number, place))
    return rows_of(export, source)


def _add_task(task: Record, number: int, place: str, export: Export) -> None:
    """Add a task's annotations; only those that are marked as ground truth where there are any."""
    data: Mapping[str, Any] = task["data"]
    annotations = task.get("annotations", task.get("completions"))
    if not isinstance(annotations, list):
        raise DataError(f"{place}: expected the list 'annotations' beside 'data', as in Label Studio's export as JSON")
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    kept = [annotation for annotation in kept if annotation.get("ground_truth")] or kept
    if not kept:
        export.left_out["skipped" if annotations else NO_ANSWER] += 1
        return
    by_annotator = [_results(annotation.get("result", []), data, place) for annotation in kept]
    questions = dict.fromkeys(name for _, found in by_annotator for name in found)
    answers = {name: [found.get(name, ()) for _, found in by_annotator] for name in questions}
    column = next((column for column, _ in by_annotator if column), "")
    export.items.append(Item(number, dict(data), answers, column))


def _results(results: list[Record], data: Mapping[str, Any], place: str) -> tuple[str, dict[str, Answer]]:
    """Return the column that spans are of, and one annotator's answers by question."""
    column, found = "", dict[str, Answer]()
    for result in results:
        kind, question = str(result.get("type")), str(result.get("from_name"))
        value: Record = result.get("value", {})
        if kind in _OF_RELATIONS:
            continue
        if kind in _SPANS:
            column = _text_column(result, data, place)
            found[question] = (*_earlier(found, question), _span(value, value.get(kind), data[column], place))
        elif kind in _NUMBERS:
            found[question] = _number(value.get(kind), place)
        elif kind in _READ:
            found[question] = (*_earlier(found, question), *_texts(kind, value, place))
        else:
            raise DataError(f"{place}: a result of the type {kind!r}, expected one of {', '.join(map(repr, _READ))}")
    return column, found


def _earlier(found: Mapping[str, Answer], question: str) -> tuple[Any, ...]:
    earlier = found.get(question, ())
    return earlier if isinstance(earlier, tuple) else ()


def _text_column(result: Record, data: Mapping[str, Any], place: str) -> str:
    """Return the column of the text that a span is of: the one with the name of the control, `text`, or the only one
    that is a text."""
    texts = [name for name, value in data.items() if isinstance(value, str)]
    named = [name for name in (result.get("to_name"), "text") if name in texts]
    if not named and len(texts) != 1:
        raise DataError(
            f"{place}: its spans are of '{result.get('to_name')}', which is none of the texts in 'data' "
            f"({', '.join(map(repr, texts)) or 'none'}); expected one of that name"
        )
    return str((named or texts)[0])


def _span(value: Record, labels: Any, text: str, place: str) -> Span:
    if not isinstance(labels, list) or len(labels) != 1:
        raise DataError(f"{place}: a span with the labels {labels!r}, expected one label: a word has one tag")
    shown, end = value.get("text"), value.get("end")
    if shown is None and isinstance(end, int) and has_two_units(text[: end + 1]):
        raise DataError(
            f"{place}: the span '{labels[0]}' does not hold its text, and whether its offsets count characters or "
            "units of UTF-16 (an emoji is two) cannot be told; expected an export with the texts of spans"
        )
    return span(text, value.get("start"), end, labels[0], place, shown=None if shown is None else str(shown))


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{place}: expected a number as an answer, found {value!r}")
    return float(value)


def _texts(kind: str, value: Record, place: str) -> tuple[str, ...]:
    """Return the labels or texts of a result about the whole text."""
    found = value.get("selected") if kind == "pairwise" else value.get("text" if kind == "textarea" else kind)
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise DataError(f"{place}: expected a list of texts in a result of the type {kind!r}, found {found!r}")
    return tuple(found)


def _of_minimal(record: Record, number: int, place: str) -> Item:
    """Return an item of JSON_MIN: a record whose lists of spans and of choices are answers; texts stay columns."""
    columns: dict[str, Any] = {}
    answers: dict[str, list[Answer]] = {}
    spans = {name: value for name, value in record.items() if _is_list_of_spans(value)}
    for name, value in record.items():
        if isinstance(value, dict) and isinstance(value.get("choices"), list):
            answers[name] = [tuple(value["choices"])]
        elif name not in spans:
            columns[name] = value
    text = columns.get("text") if isinstance(columns.get("text"), str) else None
    if spans and text is None:
        raise DataError(f"{place}: spans without the column 'text' that they are of; export as JSON, which names it")
    for name, value in spans.items():
        answers[name] = [tuple(_span(one, one["labels"], text or "", place) for one in value)]
    return Item(number, columns, answers, "text" if spans else "")


def _is_list_of_spans(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) and "labels" in v for v in value)
