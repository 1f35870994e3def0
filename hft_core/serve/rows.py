"""Turn the rows of a request into those that its tasks read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hft_core.data.cells import problem
from hft_core.head import Column
from hft_core.serve.errors import Refused
from hft_core.serve.limits import Limits
from hft_core.serve.schema import RowsRequest
from hft_core.serve.served_run import ServedRun, ServedTask
from hft_core.serve.served_runs import find_task

Row = Mapping[str, Any]


def rows_by_task(
    run: ServedRun, request: RowsRequest, tasks: Sequence[str] | None, limits: Limits
) -> dict[str, list[Row]]:
    """Return a request's rows for each task, checked. Raises `Refused` (404, 413, 422)."""
    given = request.texts or request.messages or request.rows or []
    if len(given) > limits.items:
        raise Refused(413, f"{len(given)} rows were given, at most {limits.items} are taken: send several requests")
    plain = request.model_dump(include={"texts", "messages", "rows"}, exclude_none=True)
    ((form, values),) = plain.items()
    try:
        size = check_texts(values)
    except RecursionError:
        raise Refused(422, f"{form}: nested too deeply") from None
    if size > limits.characters:
        raise Refused(413, f"the texts have {size} characters, at most {limits.characters} are taken")
    if tasks is None:
        chosen = [task for task in run.tasks.values() if _fits(task, form, values[0])]
        if not chosen:
            raise Refused(422, f"{form}: no task of run '{run.name}' reads such rows; {_read_by(run.tasks.values())}")
    else:
        chosen = [find_task(run, name) for name in dict.fromkeys(tasks)]
    return {task.name: [_row(task, form, i, value) for i, value in enumerate(values)] for task in chosen}


def check_texts(value: Any) -> int:
    """Return how many characters all texts in a value have. Raises `Refused` (422) for half of a surrogate pair."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= mark <= "\udfff" for mark in value):
            raise Refused(422, "a text has half of a surrogate pair, which is no character")
        return len(value)
    if isinstance(value, Mapping):
        return sum(check_texts(key) + check_texts(item) for key, item in value.items())
    return sum(map(check_texts, value)) if isinstance(value, list) else 1


def _texts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _fits(task: ServedTask, form: str, value: Any) -> bool:
    """Return whether the task reads rows like this one."""
    if form == "rows":
        return all(column.name in value for column in task.columns)
    if form == "messages":
        return [column.kind for column in task.columns] == ["messages"]
    return len(task.texts) == len(task.columns) == len(_texts(value))


def _read_by(tasks: Iterable[ServedTask]) -> str:
    return "; ".join(f"'{task.name}' reads {', '.join(column.name for column in task.columns)}" for task in tasks)


def _row(task: ServedTask, form: str, number: int, value: Any) -> Row:
    row = _cells(task, form, number, value)
    for column in task.columns:
        if column.name not in row:
            raise Refused(422, f"{form}[{number}]: no column '{column.name}', which task '{task.name}' reads")
        if wrong := problem(row[column.name], column):
            raise Refused(422, f"{form}[{number}]: column '{column.name}' of task '{task.name}': {wrong}")
    return row


def _cells(task: ServedTask, form: str, number: int, value: Any) -> Row:
    if form == "rows":
        return dict(value)
    columns = task.texts
    names = ", ".join(column.name for column in task.columns)
    if len(columns) < len(task.columns):
        raise Refused(422, f"{form}: task '{task.name}' reads {names}, which are not all texts: give 'rows'")
    if form == "messages":
        if [column.kind for column in columns] != ["messages"]:
            raise Refused(422, f"messages: task '{task.name}' reads {names} and no conversations: give 'texts'")
        return {columns[0].name: value}
    texts = _texts(value)
    if len(texts) != len(columns):
        raise Refused(
            422, f"texts[{number}]: task '{task.name}' reads {len(columns)} ({names}), {len(texts)} were given"
        )
    return {column.name: _cell(column, text) for column, text in zip(columns, texts, strict=True)}


def _cell(column: Column, text: str) -> Any:
    return [{"role": "user", "content": text}] if column.kind == "messages" else text
