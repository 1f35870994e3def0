"""Predictions and scores on new rows, of a finished run or of one that a host has open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from hft_core import assemble, data, machine
from hft_core.errors import UsageError, did_you_mean
from hft_core.evaluate import judge, score, score_task
from hft_core.examples import Examples, encode
from hft_core.machine import Machine
from hft_core.model import HybridModel
from hft_core.resolve import Resolved
from hft_core.results import Scores
from hft_core.rows import Rows
from hft_core.turns import in_turn


class Trained(Protocol):
    """What predicts: a `hft_core.SavedRun`, or a `hft_core.Session`."""

    machine: Machine | None

    @property
    def resolved(self) -> Resolved: ...

    @property
    def model(self) -> HybridModel: ...


def rows_from_texts(saved: Trained, task: str, texts: Sequence[str]) -> Rows:
    """Rows of the texts given, as many in turn for each row as the task has text columns. Raises `UsageError`."""
    columns = [column for column in _head(saved, task).columns() if not column.target]
    names = [column.name for column in columns if column.kind in ("text", "messages")]
    conversations = {column.name for column in columns if column.kind == "messages"}
    if len(texts) % len(names):
        raise UsageError(
            f"task '{task}' reads {len(names)} texts a row ({', '.join(names)}): {len(texts)} were given, expected a "
            f"multiple of {len(names)}"
        )
    cells = [
        [{"role": "user", "content": text}] if names[i % len(names)] in conversations else text
        for i, text in enumerate(texts)
    ]
    table = [dict(zip(names, cells[i : i + len(names)], strict=True)) for i in range(0, len(cells), len(names))]
    return data.from_python(table, task=task)


def rows_from_file(path: Path, task: str) -> Rows:
    """The rows of a data file of any format that recipes take. Raises `DataError`."""
    return data.read([str(path)], None, "line", task=task)


@in_turn
def predict(saved: Trained, task: str, rows: Any) -> list[dict[str, Any]]:
    """An answer for each row, in their order; `rows`: a `datasets.Dataset`, a pandas DataFrame or a list of dicts, or
    what the functions above give. Raises `DataError` for rows that lack what the task reads."""
    head, rows = _head(saved, task), data.from_python(rows, task=task)
    assemble.check_rows(task, head, rows, "input", need_targets=False)
    examples = _encoded(saved, task, rows, with_targets=False)
    where = _machine(saved)
    judged = judge(saved.model, task, examples, where, seed=saved.resolved.recipe.seed, with_loss=False)
    if not judged.predictions:
        raise UsageError(f"task '{task}' has no predictions for single texts: its head only learns; see 'hft evaluate'")
    by_row: list[list[Any]] = [[] for _ in range(len(rows))]
    for row, prediction in zip(examples.rows, judged.predictions, strict=True):
        by_row[row].append(prediction)
    read = [column.name for column in head.columns() if rows.has(column.name)]
    cells = (row for _, columns in rows.batches(len(rows), read) for row in zip(*columns.values(), strict=True))
    return [
        head.answer(predictions, dict(zip(read, row, strict=True)))
        for predictions, row in zip(by_row, cells, strict=True)
    ]


@in_turn
def evaluate(saved: Trained, task: str, rows: Any) -> dict[str, float]:
    """The task's metrics on labelled rows (as in `predict`). Raises `DataError` for rows that do not fit the task."""
    head, rows = _head(saved, task), data.from_python(rows, task=task)
    assemble.check_rows(task, head, rows, "input", need_targets=True)
    return score_task(saved.model, task, _encoded(saved, task, rows), _machine(saved), seed=saved.resolved.recipe.seed)


@in_turn
def evaluate_recipe_data(saved: Trained, tasks: Sequence[str]) -> dict[str, Scores]:
    """Scores on the dev and test splits of the run's own recipe. Raises `DataError` when its files have gone."""
    heads = {task: _head(saved, task) for task in tasks}
    rows = assemble.load_rows(saved.resolved, heads, {})
    examples = assemble.tokenise(saved.resolved, rows, saved.model)
    where, seed = _machine(saved), saved.resolved.recipe.seed
    return {split: score(saved.model, tasks, examples[split], where, seed=seed) for split in ("dev", "test")}


def _head(saved: Trained, task: str) -> Any:
    if task not in saved.model.heads:
        raise UsageError(f"the run has no task '{task}'.{did_you_mean(task, saved.model.heads)}")
    return saved.model.head(task)


def _encoded(saved: Trained, task: str, rows: Rows, *, with_targets: bool = True) -> Examples:
    limit = assemble.max_length(saved.resolved, task, saved.model)
    return encode(rows, _head(saved, task), saved.model.backbone.tokenizer, limit, with_targets=with_targets)


def _machine(saved: Trained) -> Machine:
    if saved.machine is None:
        saved.machine = machine.find(saved.resolved.recipe.precision)
    saved.model.to(saved.machine.device)
    return saved.machine
