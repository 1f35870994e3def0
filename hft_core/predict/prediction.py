"""Predict and evaluate on new rows, with a finished run or an open session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hft_core.acceleration.decide import decide_evaluation
from hft_core.data import loading, row_notes
from hft_core.data.examples import Examples, encode
from hft_core.data.row_notes import NoteCounts
from hft_core.data.rows import Rows
from hft_core.device.machine import Machine, find_machine
from hft_core.errors import UsageError, did_you_mean
from hft_core.head import Column, Head
from hft_core.model.execution_plan import PLAIN, ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.resolve import Resolved
from hft_core.runs import assembly
from hft_core.runtime.run_lock import exclusive
from hft_core.training.evaluation import Measured, evaluate_tasks, measure

Counts = dict[str, NoteCounts]
OnNote = Callable[[str], None]


class Trained(Protocol):
    """A trained model with its recipe: a `hft_core.SavedRun`, or a `hft_core.Session`."""

    machine: Machine | None
    plan: ExecutionPlan | None

    @property
    def resolved(self) -> Resolved: ...

    @property
    def model(self) -> HybridModel: ...


def rows_from_texts(saved: Trained, task: str, texts: Sequence[str]) -> Rows:
    """Build rows from texts, each row from as many as the task has text columns. Raises `UsageError`."""
    return rows_for_tasks(saved, [task], texts)


def rows_for_tasks(saved: Trained, tasks: Sequence[str], texts: Sequence[str]) -> Rows:
    """Build rows as `rows_from_texts` does, for several tasks with the same number of text columns.

    Raises `UsageError`.
    """
    read = {task: [c for c in head_of(saved, task).columns() if not c.target and c.kind in _TEXTS] for task in tasks}
    (first, columns), *others = read.items()
    size, places = len(columns), {column.name: (i, column.kind) for i, column in enumerate(columns)}
    for other, theirs in others:
        alike = [
            places.setdefault(column.name, (i, column.kind)) == (i, column.kind) for i, column in enumerate(theirs)
        ]
        if len(theirs) != size or not all(alike):
            raise UsageError(
                f"tasks '{first}' ({_names(columns)}) and '{other}' ({_names(theirs)}) do not read the same texts: ask "
                "them one by one, or give rows with all of these columns (--input)"
            )
    if len(texts) % size:
        raise UsageError(
            f"task '{first}' reads {size} texts a row ({_names(columns)}): {len(texts)} were given, expected a "
            f"multiple of {size}"
        )
    rows = (texts[i : i + size] for i in range(0, len(texts), size))
    table = [
        {column.name: _cell(column, text) for theirs in read.values() for column, text in zip(theirs, row, strict=True)}
        for row in rows
    ]
    return loading.from_python(table, task=first)


_TEXTS = ("text", "messages")


def _names(columns: Sequence[Column]) -> str:
    return ", ".join(column.name for column in columns)


def _cell(column: Column, text: str) -> Any:
    return [{"role": "user", "content": text}] if column.kind == "messages" else text


def rows_from_file(path: str | Path, task: str) -> Rows:
    """Read the rows of a data file, in any format that recipes take. Raises `DataError`."""
    return loading.read([str(path)], None, "line", task=task)


@exclusive
def predict(saved: Trained, task: str, rows: Any) -> list[dict[str, Any]]:
    """Predict an answer for each row, in their order.

    `rows`: a `datasets.Dataset`, a pandas DataFrame, a list of dicts, or what the functions above return. Raises
    `DataError` for rows without a column that the task reads.
    """
    return _answers(saved, [task], rows)[task]


@exclusive
def predict_tasks(saved: Trained, rows: Any, tasks: Sequence[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Predict answers of several tasks (by default of all that have answers), encoding texts that they share once.

    Returns the answers by task, each as `predict` does. Raises `DataError` for rows without a column that one of them
    reads.
    """
    return _answers(saved, answering(saved) if tasks is None else tasks, rows)


@exclusive
def predict_counted(saved: Trained, rows: Any, tasks: Sequence[str], counts: Counts) -> dict[str, list[dict[str, Any]]]:
    """Predict as `predict_tasks` does, and add what is odd about the texts to `counts` (no token that is known, special
    tokens, damage)."""
    return _answers(saved, tasks, rows, counts)


def answering(saved: Trained) -> list[str]:
    """Return the tasks that predict answers for single texts. Raises `UsageError` when none does."""
    found = [task for task in saved.model.heads if type(saved.model.head(task)).answer is not Head.answer]
    if not found:
        raise UsageError("no task of the run has predictions for single texts: their heads only learn")
    return found


def _answers(
    saved: Trained, tasks: Sequence[str], rows: Any, counts: Counts | None = None
) -> dict[str, list[dict[str, Any]]]:
    heads = {task: head_of(saved, task) for task in tasks}
    limits = assembly.max_lengths(saved.resolved, heads, saved.model)
    examples: dict[str, Examples] = {}
    for task, head in heads.items():
        rows = loading.from_python(rows, task=task)
        assembly.check_rows(task, head, rows, "input", need_targets=False)
        examples[task] = encode(rows, head, saved.model.backbone.tokenizer, limits[task], with_targets=False)
        if counts is not None:
            counts.setdefault(task, NoteCounts()).add(rows, examples[task].notes())
    where, seed = machine_of(saved), saved.resolved.recipe.seed
    plan = _plan(saved, examples, where)
    evaluations = evaluate_tasks(saved.model, examples, where, seed=seed, with_loss=False, predicting=heads, plan=plan)
    return {
        task: answers_by_row(task, heads[task], rows, examples[task], evaluations[task].predictions) for task in heads
    }


def answers_by_row(
    task: str, head: Head, rows: Rows, examples: Examples, predictions: Sequence[Any]
) -> list[dict[str, Any]]:
    """Return the head's answers, from its predictions for each row's examples and the row's cells.

    Raises `UsageError` where there are none.
    """
    if not predictions:
        raise UsageError(f"task '{task}' has no predictions for single texts: its head only learns; see 'hft evaluate'")
    by_row: list[list[Any]] = [[] for _ in range(len(rows))]
    for row, prediction in zip(examples.rows[examples.answered(head)], predictions, strict=True):
        by_row[row].append(prediction)
    read = list(dict.fromkeys(column.name for column in head.columns() if rows.has(column.name)))
    cells = (row for _, columns in rows.batches(len(rows), read) for row in zip(*columns.values(), strict=True))
    return [head.answer(said, dict(zip(read, row, strict=True))) for said, row in zip(by_row, cells, strict=True)]


@exclusive
def evaluate(saved: Trained, task: str, rows: Any) -> dict[str, float]:
    """Evaluate a task on labeled rows (as in `predict`), and return its metrics.

    Raises `DataError` for rows that do not fit the task.
    """
    return _measured(saved, task, rows).scores[task]


@exclusive
def evaluate_by_label(saved: Trained, task: str, rows: Any, *, on_note: OnNote | None = None) -> Measured:
    """Evaluate a task as `evaluate` does, also by label; `on_note` gets what is odd about the rows, a line each."""
    return _measured(saved, task, rows, on_note)


def _measured(saved: Trained, task: str, rows: Any, on_note: OnNote | None = None) -> Measured:
    head, rows = head_of(saved, task), loading.from_python(rows, task=task)
    assembly.check_rows(task, head, rows, "input", need_targets=True)
    limit = assembly.max_length(saved.resolved, task, saved.model)
    examples = {task: encode(rows, head, saved.model.backbone.tokenizer, limit)}
    if on_note is not None:
        for line in row_notes.warnings(task, {"input": rows}, {"input": examples[task].notes()}):
            on_note(line)
    return measure(saved.model, [task], examples, machine_of(saved), seed=saved.resolved.recipe.seed)


@exclusive
def evaluate_recipe_data(saved: Trained, tasks: Sequence[str], *, on_note: OnNote | None = None) -> dict[str, Measured]:
    """Evaluate tasks on the dev and test splits of the run's own recipe; `on_note` gets what is odd about their rows, a
    line each. Raises `DataError` when its files are gone."""
    heads = {task: head_of(saved, task) for task in tasks}
    rows = assembly.load_rows(saved.resolved, heads, {})
    examples = assembly.tokenize(saved.resolved, rows, saved.model)
    if on_note is not None:
        for task, splits in rows.items():
            of_task = {split: part for split, part in splits.items() if split in ("dev", "test")}
            for line in row_notes.warnings(task, of_task, {split: examples[split][task].notes() for split in of_task}):
                on_note(line)
    where, seed = machine_of(saved), saved.resolved.recipe.seed
    return {
        split: measure(saved.model, tasks, of_split, where, seed=seed, plan=_plan(saved, of_split, where))
        for split, of_split in examples.items()
        if split in ("dev", "test")
    }


def head_of(saved: Trained, task: str) -> Head:
    """Return the head of a task. Raises `UsageError` for one that the run does not have."""
    if task not in saved.model.heads:
        raise UsageError(f"the run has no task '{task}'.{did_you_mean(task, saved.model.heads)}")
    return saved.model.head(task)


def _plan(saved: Trained, examples: Mapping[str, Examples], machine: Machine) -> ExecutionPlan:
    """The plan of an earlier prediction, unless the model's strategy is another one since."""
    if sum(len(part) > 0 for part in examples.values()) < 2:
        return PLAIN
    if saved.plan is None or saved.plan.strategy is not saved.model.strategy:
        saved.plan = decide_evaluation(saved.model, examples, machine, seed=saved.resolved.recipe.seed)
    return saved.plan


def machine_of(saved: Trained) -> Machine:
    """Find the device and number format to predict with, once."""
    if saved.machine is None:
        saved.machine = find_machine(saved.resolved.recipe.precision)
    saved.model.to(saved.machine.device)
    return saved.machine
