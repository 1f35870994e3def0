"""Predict on rows as they arrive, count the answers in windows, and write windows and surges."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TextIO

import typer

from hft_applications.stream import Arrival
from hft_applications.surge import Alert, ShareOf, SurgeTest
from hft_applications.windows import Window, Windows
from hft_core.data import nearest, shown
from hft_core.errors import DataError, UsageError
from hft_core.sanitize import json_text, plain

if TYPE_CHECKING:
    from hft_core import SavedRun

Answer = tuple[datetime, str, str]
"""When a text came, its topic and its sentiment."""


def text_column(saved: SavedRun, tasks: Sequence[str]) -> str:
    """Return the one column that all the tasks read. Raises `UsageError` for several."""
    names = {column.name for task in tasks for column in saved.model.head(task).columns() if not column.target}
    if len(names) != 1:
        raise UsageError(f"tasks {' and '.join(tasks)}: expected one text column for both; found {', '.join(names)}")
    return names.pop()


def usable(rows: Iterable[Arrival], text: str, time: str | None, rejects: TextIO | None) -> Iterator[Arrival]:
    """Yield the rows with a text, each with the time in the column `time` if there is one.

    Others are written to `rejects`, with the reason. Raises `DataError` for the first one where there is no such file.
    """
    for row in rows:
        try:
            yield _checked(row, text, time)
        except DataError as error:
            if rejects is None:
                raise
            rejects.write(json_text({"reason": str(error), "row": row.row}, default=str) + "\n")
            rejects.flush()


def _checked(arrival: Arrival, text: str, time: str | None) -> Arrival:
    if arrival.problem:
        raise DataError(f"{arrival.place}: {arrival.problem}")
    for column in filter(None, (text, time)):
        if arrival.row.get(column) in (None, ""):
            raise DataError(f"{arrival.place}: has no '{column}'.{nearest(column, arrival.row)}")
    if not isinstance(arrival.row[text], str) or not arrival.row[text].strip():
        raise DataError(f"{arrival.place}: column '{text}': expected text; found {shown(arrival.row[text])}")
    if time is None:
        return arrival
    return replace(arrival, time=_moment(arrival.row[time], f"{arrival.place}: column '{time}'"))


def _moment(value: Any, place: str) -> datetime:
    """Read a time: an ISO 8601 text, UTC if it names no zone."""
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(value.strip())
    except (AttributeError, ValueError):
        message = f"{place}: expected a time such as 2026-01-31T12:00:00+00:00; found {shown(value)}"
        raise DataError(message) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def answers(
    saved: SavedRun, tasks: tuple[str, str], column: str, batches: Iterable[list[Arrival]], *, ticking: bool
) -> Iterator[Answer | datetime]:
    """Yield the answers of the two tasks for each row; if `ticking`, the present moment where none has arrived."""
    from hft_core.predict import predict_tasks

    for batch in batches:
        if not batch:
            if ticking:
                yield datetime.now(UTC)
            continue
        found = predict_tasks(saved, [{column: row.row[column]} for row in batch], tasks)
        for row, topic, sentiment in zip(batch, *(found[task] for task in tasks), strict=True):
            yield row.time, topic["label"], sentiment["label"]


def watch(answers: Iterable[Answer | datetime], length: timedelta, test: SurgeTest, output: TextIO | None) -> None:
    """Write each window and its surges to `output` (None: standard output), and surges to standard error too."""
    windows, out = Windows(length), output or sys.stdout

    def finish(window: Window | None) -> None:
        if window is None:
            return
        print(json_text(_window(window)), file=out, flush=True)
        for alert in test.check(window):
            print(json_text(_alert(alert)), file=out, flush=True)
            typer.echo(plain(_told(alert, test.negative)), err=True)

    try:
        for answer in answers:
            finish(windows.close_until(answer) if isinstance(answer, datetime) else windows.add(*answer))
    finally:  # the last window, also when the command is interrupted
        finish(windows.close())


def _window(window: Window) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    for (topic, sentiment), count in sorted(window.counts.items()):
        counts.setdefault(topic, {})[sentiment] = count
    return {
        "window": window.begin.isoformat(),
        "until": window.end.isoformat(),
        "texts": window.texts(),
        "late": window.late,
        "counts": counts,
    }


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.window.begin.isoformat(),
        "topic": alert.topic,
        "share_of": alert.share_of,
        "negative": alert.negative,
        "texts": alert.texts,
        "before": {"windows": alert.windows_before, "negative": alert.negative_before, "texts": alert.texts_before},
        "p": alert.p,
    }


def _told(alert: Alert, label: str) -> str:
    of = "texts on it" if alert.share_of is ShareOf.TOPIC else "texts"
    return (
        f"surge at {alert.window.begin.isoformat()}: {alert.topic}: {alert.negative} {label} of {alert.texts} {of}, "
        f"{alert.negative_before} of {alert.texts_before} in {alert.windows_before} windows before, p = {alert.p:.2g}"
    )
