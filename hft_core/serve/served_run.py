"""Hold an open run and answer many requests by one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hft_core.acceleration.decide import decide_evaluation
from hft_core.data.cells import group_key
from hft_core.data.examples import Examples, in_memory
from hft_core.device.machine import Machine
from hft_core.errors import DataError, HftError
from hft_core.head import Column, Encoded, Head
from hft_core.model.execution_plan import PLAIN, ExecutionPlan
from hft_core.plugins.catalogue import Catalogue
from hft_core.predict.embeddings import vectors_by_row
from hft_core.predict.prediction import answering, machine_of
from hft_core.predict.saved_run import SavedRun, open_run
from hft_core.runs.assembly import max_length
from hft_core.runtime.run_lock import exclusive
from hft_core.serve.batcher import Job
from hft_core.serve.writing import Writing, telling
from hft_core.training.evaluation import evaluate_tasks

Rows = Sequence[Mapping[str, Any]]
Answers = dict[str, list[dict[str, Any]]]
"""By task, an answer for each row."""
SAMPLE: Mapping[str, Any] = {
    "text": "a text",
    "number": 0.0,
    "label": "a",
    "messages": [{"role": "user", "content": "a"}],
}
"""A cell of each kind of column, to try the model with."""


@dataclass
class ServedTask:
    """A task that answers, and how its rows are encoded."""

    name: str
    head: Head
    limit: int
    """Tokens of a sequence."""
    columns: list[Column] = field(init=False)
    """Those of rows for prediction."""
    encoding: object = field(init=False)
    """Equal for tasks that are taken to encode the same rows equally."""

    def __post_init__(self) -> None:
        self.columns = [column for column in self.head.columns() if not column.target]
        self.encoding = (type(self.head).encode, self.limit, tuple(self.columns), self.head.group_column)

    @property
    def texts(self) -> list[Column]:
        """The columns that a request may give as `texts`, in order."""
        return [column for column in self.columns if column.kind in ("text", "messages")]

    @property
    def alone(self) -> bool:
        """Whether its batches are its own: it generates text, or compares the rows of a batch."""
        return self.head.generates or self.head.joint


class ServedRun:
    """An open run; one thread at a time uses it.

    A job's `work` is its rows by task, and `Job.rows` their number, which is the same for each task.
    """

    def __init__(self, name: str, saved: SavedRun) -> None:
        self.name, self.saved, self.model = name, saved, saved.model
        self.machine: Machine = machine_of(saved)
        self.tasks = {
            task: ServedTask(task, self.model.head(task), max_length(saved.resolved, task, self.model))
            for task in answering(saved)
        }
        self._seed = saved.resolved.recipe.seed
        self._plan = self._decide()

    @exclusive
    def predict(self, jobs: Sequence[Job]) -> list[Answers | Exception]:
        """Return the answers of each job."""
        encoded = [self._encode_all(job.work) for job in jobs]
        examples = self._gather(jobs, encoded, shares=not self.model.strategy.routes_rows)
        by_row = self._predictions(examples)
        return [
            known if isinstance(known, Exception) else self._answer(job.work, start, by_row)
            for job, known, start in zip(jobs, encoded, _starts(jobs), strict=True)
        ]

    @exclusive
    def embed(self, jobs: Sequence[Job]) -> list[list[list[float]] | Exception]:
        """Return an embedding `[d]` for each row of each job, whose rows are of one task."""
        encoded = [self._encode_all(job.work) for job in jobs]
        found = {
            task: self._vectors(task, examples) for task, examples in self._gather(jobs, encoded, shares=False).items()
        }
        return [
            known if isinstance(known, Exception) else [found[next(iter(job.work))][start + i] for i in range(job.rows)]
            for job, known, start in zip(jobs, encoded, _starts(jobs), strict=True)
        ]

    @exclusive
    def write(self, jobs: Sequence[Job]) -> list[str]:
        """Return the text that a task writes after one row: the only job's `work` is a `Writing`."""
        (job,) = jobs
        writing: Writing = job.work
        head = self.tasks[writing.task].head
        with telling(head, writing):
            examples = {writing.task: in_memory([(self._encode(self.tasks[writing.task], [writing.row]), [0])])}
            said = self._predictions(examples)[writing.task][0]
        return [str(head.answer(said, writing.row).get("text", ""))]

    # --- from rows to examples

    def _encode_all(self, rows_by_task: Mapping[str, Rows]) -> dict[str, Encoded] | Exception:
        try:
            return {task: self._encode(self.tasks[task], rows) for task, rows in rows_by_task.items()}
        except HftError as error:
            return error
        except ValueError as error:
            return DataError(f"the rows cannot be encoded: {error}")

    def _encode(self, task: ServedTask, rows: Rows) -> Encoded:
        """Encode rows; a head with groups reads those of a group side by side."""
        head, order = task.head, list(range(len(rows)))
        if head.group_column and all(head.group_column in row for row in rows):
            numbers: dict[object, int] = {}
            group = [numbers.setdefault(group_key(row[head.group_column]), len(numbers)) for row in rows]
            order.sort(key=group.__getitem__)
        table = {column.name: [rows[i][column.name] for i in order] for column in task.columns}
        encoded = head.encode(table, self.model.backbone.tokenizer, task.limit)
        encoded.rows = [order[row] for row in encoded.rows]
        return encoded

    def _gather(
        self, jobs: Sequence[Job], encoded: Sequence[dict[str, Encoded] | Exception], *, shares: bool
    ) -> dict[str, Examples]:
        """Return the examples of all jobs by task, their rows numbered through.

        With `shares`, tasks of one encoding get the rows of all jobs that ask any of them: equal examples go through
        the trunk once, and a head costs next to nothing beside it.
        """
        asked = dict.fromkeys(task for known in encoded if not isinstance(known, Exception) for task in known)
        parts: dict[str, list[tuple[Encoded, Sequence[int]]]] = {task: [] for task in asked}
        for job, known, start in zip(jobs, encoded, _starts(jobs), strict=True):
            if isinstance(known, Exception):
                continue
            for task in asked:
                own = known.get(task) or (self._alike(task, known) if shares else None)
                if own is not None and own.sequences:
                    parts[task].append((own, range(start, start + job.rows)))
        return {task: in_memory(of_task) for task, of_task in parts.items() if of_task}

    def _alike(self, task: str, known: Mapping[str, Encoded]) -> Encoded | None:
        """Return what a task of the same encoding made of a job's rows."""
        mine = self.tasks[task]
        if mine.alone:
            return None
        return next((part for other, part in known.items() if self.tasks[other].encoding == mine.encoding), None)

    # --- from examples to answers

    def _predictions(self, examples: Mapping[str, Examples]) -> dict[str, dict[int, list[Any]]]:
        """Return by task and row the predictions of the row's examples."""
        plan = self._plan if len(examples) > 1 else PLAIN
        evaluations = evaluate_tasks(
            self.model, examples, self.machine, seed=self._seed, with_loss=False, predicting=examples, plan=plan
        )
        by_row: dict[str, dict[int, list[Any]]] = {task: {} for task in examples}
        for task, evaluation in evaluations.items():
            answered = examples[task].answered(self.model.head(task))
            for row, prediction in zip(examples[task].rows[answered].tolist(), evaluation.predictions, strict=True):
                by_row[task].setdefault(row, []).append(prediction)
        return by_row

    def _answer(
        self, rows_by_task: Mapping[str, Rows], start: int, by_row: Mapping[str, Mapping[int, list[Any]]]
    ) -> Answers:
        return {
            task: [self.tasks[task].head.answer(by_row[task][start + i], row) for i, row in enumerate(rows)]
            for task, rows in rows_by_task.items()
        }

    def _vectors(self, task: str, examples: Examples) -> dict[int, list[float]]:
        rows, vectors = vectors_by_row(self.model, task, examples, self.machine, seed=self._seed)
        return dict(zip(rows.tolist(), vectors.tolist(), strict=True))

    @exclusive
    def _decide(self) -> ExecutionPlan:
        """Decide how tasks share a pass, by trying it on made-up rows."""
        examples = {}
        for name, task in self.tasks.items():
            row = {c.name: [SAMPLE[c.kind]] * 2 if c.many else SAMPLE[c.kind] for c in task.columns}
            try:
                examples[name] = in_memory([(self._encode(task, [row]), [0])])
            except Exception:
                continue
        if len(examples) < 2:
            return PLAIN
        return decide_evaluation(self.model, examples, self.machine, seed=self._seed)


def _starts(jobs: Sequence[Job]) -> list[int]:
    """Return the number of each job's first row."""
    starts, total = [], 0
    for job in jobs:
        starts.append(total)
        total += job.rows
    return starts


def open_served(name: str, folder: Path, catalogue: Catalogue, *, trust_remote_code: bool = False) -> ServedRun:
    """Open the run in `folder`. Raises what `open_run` raises, and `UsageError` when no task has answers."""
    return ServedRun(name, open_run(folder, catalogue, trust_remote_code=trust_remote_code, merge=True))
