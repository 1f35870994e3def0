"""Choose the rows of a file to label next, and write them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hft_core.active_learning.criteria import DISAGREEMENT, SMALLEST_FIRST, UNCERTAINTY
from hft_core.active_learning.diversity import k_center
from hft_core.active_learning.predicted import Predicted, predicted
from hft_core.data import loading
from hft_core.data.cells import group_key
from hft_core.data.rows import Rows
from hft_core.errors import RunError, UsageError, did_you_mean
from hft_core.head import Head
from hft_core.predict import answer_tables
from hft_core.predict.answer_file import Progress
from hft_core.predict.answer_lines import with_input
from hft_core.predict.embeddings import embed, normalized
from hft_core.predict.prediction import head_of, predict, rows_from_file
from hft_core.predict.saved_run import SavedRun
from hft_core.runs import assembly
from hft_core.runtime import signals
from hft_core.sanitize import finite, json_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIVERSITY = "diversity"
CRITERIA = (*UNCERTAINTY, *DISAGREEMENT, DIVERSITY)
ROWS_AT_ONCE = 2000
"""Rows that are predicted or embedded together."""
OnProgress = Callable[[Progress, int], None]
"""Called with the rows that a model has read, and how many of all runs there are."""


class Runs(Protocol):
    """Opened runs: a list of them, or what opens one after another."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[SavedRun]: ...


@dataclass(frozen=True)
class Chosen:
    """A row that was chosen."""

    row: int
    """Its index in the rows."""
    value: float | None
    """What it was chosen by: the measure of the criterion, or for `diversity` the distance to the nearest row that was
    chosen before it or is labeled; None for the first of all."""


@dataclass(frozen=True)
class Selection:
    """What was chosen, the most informative first."""

    chosen: list[Chosen]
    rows: int
    """Rows that were given."""
    repeated: int
    """Rows that an earlier one equals in all columns that the task reads."""
    labeled: int
    """Further rows that equal a labeled one."""


def select_rows(
    runs: Runs,
    task: str | None,
    rows: Any,
    count: int,
    by: str,
    *,
    labeled: Any = None,
    on_progress: OnProgress | None = None,
) -> Selection:
    """Choose `count` rows to label next; of rows that are equal for the task, the first.

    `task`: None where the runs have only one. `rows`, and `labeled` (rows that are labeled already, which are not
    chosen, and which `diversity` keeps away from): as in `predict`. `by`: `margin` or `entropy` (of several runs, of
    their mean probabilities), `disagreement` or `vote-entropy` of several runs, or `diversity` of one. Equal values are
    in the order of the rows. Raises `UsageError` and `DataError`.
    """
    check_criterion(by, len(runs))
    opened = iter(runs)
    first = next(opened)
    return _Selecting(first, opened, len(runs), task, by, on_progress).select(rows, labeled, count)


def select_file(
    runs: Runs,
    task: str | None,
    input: str | Path,
    output: str | Path,
    count: int,
    by: str,
    *,
    labeled: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Selection:
    """Choose rows of a data file as `select_rows` does, and write them with all their columns to `output`.

    Each gets what it was chosen by, under the name of the criterion. The suffix of `output` chooses its format, as for
    `predict_file`. Raises also `RunError` where it cannot be written.
    """
    check_criterion(by, len(runs))
    opened = iter(runs)
    first = next(opened)
    selecting = _Selecting(first, opened, len(runs), task, by, on_progress)
    rows = rows_from_file(input, selecting.task)
    known = None if labeled is None else rows_from_file(labeled, selecting.task)
    found = selecting.select(rows, known, count)
    if not found.chosen:
        raise UsageError(f"{input}: each of its {len(rows)} rows is labeled already: there is none to choose")
    name = by.replace("-", "_")
    own = rows.select([chosen.row for chosen in found.chosen])
    _write(with_input(own, ({name: chosen.value} for chosen in found.chosen)), Path(output))
    return found


class _Selecting:
    """The runs that choose, one after another, and what they choose by."""

    def __init__(
        self,
        first: SavedRun,
        others: Iterable[SavedRun],
        count: int,
        task: str | None,
        by: str,
        on_progress: OnProgress | None,
    ) -> None:
        """`count`: all runs. Raises `UsageError` for a task that there is not."""
        tasks = list(first.model.heads)
        if task is None and len(tasks) > 1:
            raise UsageError(f"--task is missing: which of {', '.join(tasks)}?")
        self.task = tasks[0] if task is None else task
        self._head = head_of(first, self.task)
        self._first, self._others, self._runs = first, others, count
        self._by, self._on_progress = by, on_progress

    def select(self, rows: Any, labeled: Any, count: int) -> Selection:
        """Choose `count` of the rows."""
        rows = self._checked(rows, "input")
        known = None if labeled is None else self._checked(labeled, "labeled")
        distinct, repeated, dropped = _distinct(self._head, rows, known)
        pool, told = rows.select(distinct), _Told(self._on_progress, len(distinct) * self._runs)
        chosen: list[tuple[int, float | None]] = []
        if distinct and self._by == DIVERSITY:
            centers = None if known is None else _embedded(self._first, self.task, known, _Told(None, 0))
            chosen = k_center(_embedded(self._first, self.task, pool, told), count, centers)
        elif distinct:
            chosen = _by_measure(chain([self._first], self._others), self.task, pool, count, self._by, told)
        return Selection([Chosen(distinct[i], value) for i, value in chosen], len(rows), repeated, dropped)

    def _checked(self, rows: Any, split: str) -> Rows:
        found = loading.from_python(rows, task=self.task)
        assembly.check_rows(self.task, self._head, found, split, need_targets=False)
        return found


def check_criterion(by: str, runs: int) -> None:
    """Raise `UsageError` for a criterion that there is not, or not for so many runs."""
    if by not in CRITERIA:
        raise UsageError(f"--by {by}: there is no such criterion.{did_you_mean(by, CRITERIA)}")
    if by in DISAGREEMENT and runs < 2:
        raise UsageError(f"--by {by} compares runs: expected two or more, such as of several seeds")
    if by == DIVERSITY and runs > 1:
        raise UsageError(f"--by {by} takes the embeddings of one run, {runs} were given")


def _distinct(head: Head, rows: Rows, labeled: Rows | None) -> tuple[list[int], int, int]:
    """Return the rows that differ from all before them and from all labeled ones, and how many are left out as
    repeated and as labeled."""
    names = [column.name for column in head.columns() if not column.target]
    known = set() if labeled is None else set(_keys(labeled, names))
    seen: set[Any] = set()
    kept, repeated, dropped = [], 0, 0
    for i, key in enumerate(_keys(rows, names)):
        if key in known:
            dropped += 1
        elif key in seen:
            repeated += 1
        else:
            seen.add(key)
            kept.append(i)
    return kept, repeated, dropped


def _keys(rows: Rows, names: Sequence[str]) -> Iterator[Any]:
    for _, columns in rows.batches(ROWS_AT_ONCE, names):
        for values in zip(*columns.values(), strict=True):
            yield tuple(group_key(value) for value in values)


class _Told:
    """Counts rows for `on_progress`."""

    def __init__(self, on_progress: OnProgress | None, total: int) -> None:
        self._tell, self._total, self._done = on_progress, total, Progress()

    def add(self, rows: int) -> None:
        self._done.read += rows
        if self._tell is not None:
            self._tell(self._done, self._total)


def _parts(rows: Rows, told: _Told) -> Iterator[Rows]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        signals.check()
        part = rows.select(range(start, min(start + ROWS_AT_ONCE, len(rows))))
        yield part
        told.add(len(part))


def _embedded(saved: SavedRun, task: str, rows: Rows, told: _Told) -> NDArray[np.float32]:
    """Return the embeddings `[rows, d]`, with length 1."""
    return normalized(np.concatenate([embed(saved, task, part) for part in _parts(rows, told)]))


def _by_measure(
    runs: Iterable[SavedRun], task: str, rows: Rows, count: int, by: str, told: _Told
) -> list[tuple[int, float | None]]:
    """Return the rows with the best values of a measure, the best first."""
    by_run: list[list[Predicted]] = []
    for saved in runs:
        found = [predicted(answer, task) for part in _parts(rows, told) for answer in predict(saved, task, part)]
        if by_run:
            _check_same_classes(by_run[0], found, task, saved.folder)
        by_run.append(found)
    measure = {**UNCERTAINTY, **DISAGREEMENT}[by]
    values = [measure(of_row) for of_row in zip(*by_run, strict=True)]
    sign = 1 if by in SMALLEST_FIRST else -1
    order = sorted(range(len(values)), key=lambda i: sign * values[i])
    return [(i, values[i]) for i in order[:count]]


def _check_same_classes(first: Sequence[Predicted], other: Sequence[Predicted], task: str, folder: Path) -> None:
    for one, two in zip(first, other, strict=True):
        if one.names != two.names:
            raise UsageError(
                f"{folder}: task '{task}' has the classes {', '.join(two.names)}, and in the first run "
                f"{', '.join(one.names)}: expected the same"
            )


def _write(lines: Iterable[dict[str, Any]], output: Path) -> None:
    """Write the lines in the format of the suffix, all or none. Raises `RunError`."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}.jsonl")
    try:
        with temporary.open("wb") as file:
            file.writelines(f"{json_text(finite(line), default=str)}\n".encode() for line in lines)
            file.flush()
            os.fsync(file.fileno())
        answer_tables.convert(temporary, output)
    except OSError as error:
        raise RunError(f"{output} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
