"""Score pairs of a query and a row by a task that reads both, such as one with the head `ranking`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hft_core.errors import UsageError
from hft_core.predict.prediction import Trained, head_of, predict

Pair = tuple[str, Mapping[str, Any]]
"""A query and a row by column."""


def check_reads_pairs(saved: Trained, task: str, columns: Sequence[str]) -> tuple[str, str]:
    """Return the columns of query and document of a task that scores rows with `columns`. Raises `UsageError`."""
    head = head_of(saved, task)
    texts = [column.name for column in head.columns() if column.kind == "text" and not column.target]
    if len(texts) != 2:
        raise UsageError(
            f"task '{task}' reads {', '.join(texts) or 'no text'}: expected one that reads two texts, a query and a "
            "document, and scores them"
        )
    query, document = texts
    if document not in columns:
        raise UsageError(
            f"task '{task}' reads a document from column '{document}', which the rows of the index do not have; they "
            f"have {', '.join(columns)}"
        )
    return query, document


def pair_scores(saved: Trained, task: str, columns: tuple[str, str], pairs: Sequence[Pair]) -> list[float]:
    """Return the task's number for each pair. Raises `UsageError` for a task that answers with no number, and
    `DataError` for a row without a document."""
    query, document = columns
    group = head_of(saved, task).group_column
    rows = [{**({group: text} if group else {}), document: row.get(document), query: text} for text, row in pairs]
    answers = predict(saved, task, rows)
    numbers = [answer.get("value") for answer in answers]
    if not all(isinstance(number, int | float) for number in numbers):
        raise UsageError(f"task '{task}' answers with no number to rank by, expected one such as a 'ranking' task")
    return [float(number) for number in numbers if number is not None]
