"""Make rows of annotated items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from hft_core.data.readers.annotations import agreement
from hft_core.data.readers.annotations.items import Answer, Export, Item, Span
from hft_core.data.readers.annotations.word_tags import tags_of, words_of
from hft_core.data.rows import Rows, Source, from_columns
from hft_core.errors import DataError

NO_ANSWER, TIED = "without an answer", "with as many annotators for one answer as for another"


def rows_of(export: Export, source: Source) -> Rows:
    """Return the items that have an answer as rows: their own columns, and one for each question.

    The only question about the whole text is the column `label`, the only one about spans `words` and `tags`; of
    several, each has a column by its name (and spans share `words`). Labels are lists where an item has several, and
    then none is an answer too; so it is for spans. Raises `DataError` for an export without answers, and for spans that
    words cannot have as tags.
    """
    export = export.completed()
    questions = list(dict.fromkeys(name for item in export.items for name in item.answers))
    of_spans = {name for name in questions if any(map(_is_spans, _all(export, name)))}
    picked = _picked(export, questions, of_spans)
    if not picked:
        raise DataError(
            f"{source.name}: no item has an answer ({_counted(export.left_out)}), expected an export of annotated items"
        )
    columns: dict[str, list[Any]] = {}
    for name in dict.fromkeys(name for item, _ in picked for name in item.columns):
        columns[name] = [item.columns.get(name) for item, _ in picked]
    names = _column_names(questions, of_spans, columns, source)
    notes = [*_left_out_notes(export, source), *_agreement_notes(export, questions, source)]
    if of_spans:
        words = [_words(item) for item, _ in picked]
        columns["words"] = [[item.text[a:b] for a, b in found] for (item, _), found in zip(picked, words, strict=True)]
        for question in sorted(of_spans):
            columns[names[question]], said = _tags(question, picked, words, source)
            notes += said
    for question in questions:
        if question not in of_spans:
            columns[names[question]] = _values([answers.get(question) for _, answers in picked])
    numbers = np.array([item.number for item, _ in picked], np.int32)
    return from_columns(columns, [source], np.zeros(len(picked), np.int32), numbers, notes)


def _all(export: Export, question: str) -> list[Answer]:
    return [answer for item in export.items for answer in item.answers.get(question, ())]


def _is_spans(answer: Answer) -> bool:
    return isinstance(answer, tuple) and bool(answer) and isinstance(answer[0], Span)


def _is_several(answer: Answer) -> bool:
    return isinstance(answer, tuple) and len(answer) > 1


def _words(item: Item) -> Sequence[tuple[int, int]]:
    return item.words if item.words is not None else words_of(item.text)


def _picked(export: Export, questions: Sequence[str], of_spans: set[str]) -> list[tuple[Item, dict[str, Answer]]]:
    """Return the items with an answer and the chosen answers; count the others."""
    may_be_empty = {name for name in questions if name in of_spans or any(map(_is_several, _all(export, name)))}
    picked = []
    for item in export.items:
        given = {name: [a for a in item.answers.get(name, ()) if a != () or name in may_be_empty] for name in questions}
        given |= {name: [()] for name in of_spans if not given[name]}
        found = {name: agreement.chosen(answers) for name, answers in given.items()}
        answers = {name: answer for name, answer in found.items() if answer is not None}
        if any(given[name] and answer is None for name, answer in found.items()):
            export.left_out[TIED] += 1
        elif not answers:
            export.left_out[NO_ANSWER] += 1
        else:
            picked.append((item, answers))
    return picked


def _column_names(
    questions: Sequence[str], of_spans: set[str], columns: Mapping[str, Any], source: Source
) -> dict[str, str]:
    """Return the column of each question. Raises `DataError` where the items have a column of that name."""
    whole = [name for name in questions if name not in of_spans]
    names = {name: "tags" if len(of_spans) == 1 else name for name in of_spans}
    names |= {name: "label" if len(whole) == 1 else name for name in whole}
    taken = [*names.values(), *(["words"] if of_spans else [])]
    twice = next((name for name in taken if name in columns or taken.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"{source.name}: its items have a column {twice!r}, which is also the name for what annotators answered; "
            "expected another name for one of them"
        )
    return names


def _values(answers: Sequence[Answer | None]) -> list[Any]:
    """Return numbers as they are, and labels as lists where an item has several."""
    lists = any(isinstance(answer, tuple) and len(answer) > 1 for answer in answers)
    return [(list(answer) if lists else answer[0]) if isinstance(answer, tuple) else answer for answer in answers]


def _tags(
    question: str,
    picked: Sequence[tuple[Item, Mapping[str, Answer]]],
    words: Sequence[Sequence[tuple[int, int]]],
    source: Source,
) -> tuple[list[list[str]], list[str]]:
    """Return the tags of each item's words, and a note of spans that were widened to whole words."""
    tags, widened, total = [], [], 0
    for (item, answers), found in zip(picked, words, strict=True):
        answer = answers.get(question)
        spans = [span for span in answer if isinstance(span, Span)] if isinstance(answer, tuple) else []
        own, wider = tags_of(item.text, found, spans, source.place(item.number))
        tags.append(own)
        total += len(spans)
        widened += [(item, span, whole) for span, whole in wider]
    if not widened:
        return tags, []
    item, span, whole = widened[0]
    note = (
        f"{source.name}: {len(widened)} of {total} spans begin or end inside a word and are read as whole words "
        f"(first: {source.place(item.number)}: {item.text[span.start : span.end][:40]!r} as {whole[:40]!r})"
    )
    return tags, [note]


def _counted(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "it has no items"


def _left_out_notes(export: Export, source: Source) -> tuple[str, ...]:
    count = sum(export.left_out.values())
    items = "1 item is" if count == 1 else f"{count} items are"
    return (f"{source.name}: {items} left out: {_counted(export.left_out)}",) if count else ()


def _agreement_notes(export: Export, questions: Sequence[str], source: Source) -> tuple[str, ...]:
    """Say how far annotators agree, of each question that several answered about the same item."""
    notes = []
    for question in questions:
        several = [item for item in export.items if len(item.answers.get(question, ())) > 1]
        if not several:
            continue
        equal = sum(len(set(item.answers[question])) == 1 for item in several)
        alpha = agreement.krippendorff_alpha([unit for item in several for unit in _units(item, question)])
        measured = "" if alpha is None else f" (Krippendorff's alpha {alpha:.2f})"
        notes.append(
            f"{source.name}: of {len(several)} items with several annotators' answers to '{question}', {equal} have "
            f"equal ones{measured}; the answer of most is taken, of numbers the mean"
        )
    return tuple(notes)


def _units(item: Item, question: str) -> list[list[Hashable]]:
    """Return what the annotators said of each unit: a word where they marked spans, otherwise the item."""
    answers = item.answers[question]
    if not any(map(_is_spans, answers)):
        return [list(answers)]
    return [[_label_at(answer, start, end) for answer in answers] for start, end in _words(item)]


def _label_at(answer: Answer, start: int, end: int) -> str:
    spans = [span for span in answer if isinstance(span, Span)] if isinstance(answer, tuple) else []
    return next((span.label for span in spans if span.start < end and span.end > start), "")
