"""Keep what a finished run answers to each dev and test row: `predictions/{dev,test}/TASK.parquet`.

Columns: `file` and `row` (the place of the row, `row` from 1), `reference` (the target as the data has it),
`prediction`, `probabilities` (of the labels in the file's metadata) and `loss` (summed over the row's targets). A
column that a task does not have is absent. Texts, numbers and lists of texts are stored as such, everything else as
JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hft_core.data.cells import as_label, as_list, as_number
from hft_core.data.examples import Examples
from hft_core.data.rows import Rows
from hft_core.errors import ModelError, RunError
from hft_core.head import Column, Head
from hft_core.plugins.entries import one_line
from hft_core.training.evaluation import TaskEvaluation

BATCH = 5_000
"""Rows converted at a time."""
METADATA = b"hft"
FORMAT = 1
SUFFIX = ".parquet"


@dataclass(frozen=True)
class Answers:
    """The answers of one task on one split, as read from a run."""

    table: pa.Table
    labels: tuple[str, ...]
    """What `probabilities` are of, in their order; empty where they differ by row."""

    def column(self, name: str) -> list[Any] | None:
        """Return the values of a column; None if the task has none."""
        return self.table[name].to_pylist() if name in self.table.column_names else None

    @property
    def places(self) -> list[tuple[str, int]]:
        """File and number of each row."""
        return list(zip(self.table["file"].to_pylist(), self.table["row"].to_pylist(), strict=True))

    @property
    def correct(self) -> np.ndarray | None:
        """Whether each prediction is the reference, `[rows]`; None where they cannot be equal (numbers, losses)."""
        said, truth = self.column("prediction"), self.column("reference")
        if said is None or truth is None or any(isinstance(value, float) for value in truth):
            return None
        return np.array([a == b for a, b in zip(said, truth, strict=True)])


def path_of(folder: Path, split: str, task: str) -> Path:
    """The file of a task's answers below `predictions/`."""
    return folder / split / f"{task}{SUFFIX}"


def read(path: Path) -> Answers:
    """Read the answers of a task on a split. Raises `ModelError` where there are none, or the file is damaged."""
    try:
        return of_table(pq.read_table(path))
    except FileNotFoundError:
        raise ModelError(f"{path}: the run kept no answers there (output.predictions keeps them)") from None
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: these answers cannot be read: {one_line(error)}") from error


def of_table(table: pa.Table) -> Answers:
    """Return what `table_of` made a table of."""
    return Answers(table, tuple(json.loads(table.schema.metadata[METADATA])["labels"]))


def write(folder: Path, split: str, task: str, answers: pa.Table | None) -> None:
    """Write a task's answers atomically; none for a task that has nothing to tell. Raises `RunError` (a full disk)."""
    if answers is None:
        return
    path = path_of(folder, split, task)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(answers, temporary)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


def table_of(head: Head, rows: Rows, examples: Examples, evaluation: TaskEvaluation) -> pa.Table | None:
    """Return the answers of a task as a table, in the order of the rows; None where there are neither predictions nor
    losses by row. Raises what the head's `answer` raises."""
    answered = bool(evaluation.predictions) and type(head).answer is not Head.answer
    if not answered and not evaluation.losses:
        return None
    losses = _losses_of(examples, evaluation, len(rows)) if evaluation.losses else None
    files, numbers = rows.origins()
    names = np.array([source.name for source in rows.sources], object)
    labels: list[tuple[str, ...]] = []
    parts = []
    for indices, found in _answers_of(head, rows, examples, evaluation if answered else None):
        part = slice(indices.start, indices.stop)
        columns: dict[str, Any] = {
            "file": pa.array(names[files[part]].tolist(), pa.string()),
            "row": pa.array(numbers[part], pa.int32()),
            **_columns(found, labels),
        }
        if losses is not None:
            columns["loss"] = pa.array(losses[part], pa.float32(), from_pandas=True)  # NaN: no example of the row
        parts.append(pa.table(columns))
    alike = labels[0] if len(set(labels)) == 1 else ()
    table = pa.concat_tables(parts, promote_options="permissive")
    facts = {"format": FORMAT, "task": head.task, "main_metric": head.main_metric, "labels": list(alike)}
    return table.replace_schema_metadata({METADATA: json.dumps(facts)})


def _losses_of(examples: Examples, evaluation: TaskEvaluation, count: int) -> np.ndarray:
    """Return the loss of each row, `[rows]`; NaN for a row without any."""
    losses = np.full(count, np.nan)
    ids = np.fromiter(evaluation.losses, np.int64)
    of_rows = examples.rows[ids]
    losses[of_rows] = 0.0
    np.add.at(losses, of_rows, np.fromiter(evaluation.losses.values(), np.float64))
    return losses


Answer = tuple[Any, Any, Mapping[str, float] | None]
"""Reference, prediction and probabilities of a row."""


def _answers_of(
    head: Head, rows: Rows, examples: Examples, evaluation: TaskEvaluation | None
) -> Iterator[tuple[range, list[Answer]]]:
    """Yield batches of rows with their answers; references alone without an `evaluation`."""
    targets = [column for column in head.columns() if column.target and rows.has(column.name)]
    read = list(dict.fromkeys(column.name for column in head.columns() if rows.has(column.name)))
    by_row: list[list[Any]] = [[] for _ in range(len(rows) if evaluation else 0)]
    for row, prediction in zip(
        examples.rows[examples.answered(head)], evaluation.predictions if evaluation else (), strict=False
    ):
        by_row[row].append(prediction)
    for indices, columns in rows.batches(BATCH, read):
        cells = (dict(zip(read, row, strict=True)) for row in zip(*columns.values(), strict=True))
        found = []
        for i, row in zip(indices, cells, strict=True):
            answer = head.answer(by_row[i], row) if evaluation and by_row[i] else {}
            probabilities: Mapping[str, float] | None = answer.get("probabilities")
            reference = _reference(head, row, targets, probabilities or ())
            found.append((reference, _prediction(answer, reference), probabilities))
        yield indices, found


def _reference(head: Head, row: Mapping[str, Any], targets: Sequence[Column], names: Collection[str]) -> Any:
    """Return the target of a row; of several columns, the label, or all of them by name. Labels that have
    probabilities (`names`) are in the order of these."""
    column = next((c for c in targets if c.kind == "label" and not c.many), targets[0] if len(targets) == 1 else None)
    if column is None:
        return {c.name: row[c.name] for c in targets} or None
    cell = row[column.name]
    if cell is None:
        return None
    if column.many and names and (own := head.classes_of(row)) is not None:
        return [name for name in names if name in own]
    if column.many:
        values = as_list(cell, column)
        return [as_label(value) for value in values] if column.kind == "label" else values
    return as_label(cell) if column.kind == "label" else as_number(cell) if column.kind == "number" else cell


def _prediction(answer: Mapping[str, Any], reference: Any) -> Any:
    """Return what corresponds to the reference in an answer: the text of a choice where choices are named by their
    texts, the label otherwise; nothing for an embedding."""
    by_name = "label" in answer and reference in answer.get("probabilities", ())
    keys = ("label", "value", "text") if by_name else ("text", "label", "value")
    found = next((answer[key] for key in keys if key in answer), None)
    return None if isinstance(found, list) and found and isinstance(found[0], float) else found


def _columns(found: Sequence[Answer], labels: list[tuple[str, ...]]) -> dict[str, pa.Array]:
    """Return the columns of some answers without those that are empty; `labels` gets the names of probabilities."""
    references, predictions, probabilities = zip(*found, strict=True)
    columns = {"reference": _array(references), "prediction": _array(predictions)}
    if any(probabilities):
        labels.extend(dict.fromkeys(tuple(map(str, p)) for p in probabilities if p))
        values = [None if p is None else list(p.values()) for p in probabilities]
        columns["probabilities"] = pa.array(values, pa.list_(pa.float32()))
    return {name: column for name, column in columns.items() if column.null_count < len(column)}


def _array(values: Sequence[Any]) -> pa.Array:
    """Return values as an Arrow array: texts, numbers, lists of texts, or JSON."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, str) for value in known):
        return pa.array(values, pa.string())
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return pa.array(values, pa.float64())
    if all(isinstance(value, list) and all(isinstance(item, str) for item in value) for value in known):
        return pa.array(values, pa.list_(pa.string()))
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
