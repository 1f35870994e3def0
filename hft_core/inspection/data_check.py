"""Check the rows of tasks: duplicates, leaks between splits and tasks, classes, labels, languages, personal data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hft_core.data.cells import as_label
from hft_core.data.files import read
from hft_core.data.rows import Rows
from hft_core.errors import DataError
from hft_core.inspection import headers, label_noise, languages, near_duplicates, personal_data
from hft_core.inspection.column_profile import profiles
from hft_core.inspection.file_groups import grouped
from hft_core.inspection.layouts import propose
from hft_core.inspection.proposal import Table
from hft_core.recipe.resolve import Resolved
from hft_core.runs import assembly

SHOWN = 10
"""Doubtful labels of a task that are listed."""
RARE = 10
"""A class of fewer rows is rare."""
LANGUAGE_SAMPLE = 1_000
ORDER = ("test", "dev", "train", "files")
"""A row that is in several splits stays in the first of these."""


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task, and what of them is checked."""

    name: str
    splits: Mapping[str, Rows]
    """By `train`, `dev` and `test`, or `files` where they are not divided yet."""
    texts: tuple[str, ...]
    """The columns that are read."""
    label: str = ""
    """The column of classes, if any."""


@dataclass(frozen=True)
class Dropped:
    """A row that a cleaned copy leaves out."""

    task: str
    split: str
    index: int
    place: str
    why: str


@dataclass(frozen=True)
class TaskFindings:
    """What was found of a task."""

    rows: dict[str, int]
    repeated: dict[str, int]
    """Rows that an earlier row of the split is the same as, by split; and so on for the next ones."""
    near: dict[str, int]
    leaked: dict[str, int]
    """Rows of a split that are the same as, or near, a row of another split of the task: `train/test`."""
    contradictions: int
    """Rows with the same text as an earlier one and another label."""
    classes: dict[str, int]
    """Rows by class, over all splits, the largest first."""
    rare: int
    """Classes of fewer than `RARE` rows."""
    languages: dict[str, float]
    personal: dict[str, int]
    """Rows by kind of personal data."""
    doubtful: int
    """Rows whose label is doubtful."""
    examples: tuple[dict[str, Any], ...] = ()
    """The most doubtful ones: place, label, likelier label, probability."""


@dataclass(frozen=True)
class DataReport:
    """What was found, and what a cleaned copy leaves out."""

    tasks: dict[str, TaskFindings]
    shared: dict[str, int]
    """Training rows of a task that are, nearly or not, rows that another is evaluated on: `train of a in test of b`."""
    dropped: tuple[Dropped, ...]


def of_recipe(resolved: Resolved) -> list[TaskRows]:
    """Read the tasks of a recipe, split as in a run. Raises `DataError` for a row that a head refuses, and for
    a task that streams."""
    heads = assembly.build_heads(resolved)
    for name, task in resolved.recipe.tasks.items():
        if task.data is not None and task.data.stream:
            raise DataError(f"task '{name}' streams, and all rows are compared at once: give some of its files instead")
    found = []
    for name, splits in assembly.load_rows(resolved, heads, {}).items():
        columns = heads[name].columns()
        texts = tuple(c.name for c in columns if c.kind in ("text", "messages") and not c.target)
        label = next((c.name for c in columns if c.target and c.kind == "label" and c.classes and not c.many), "")
        found.append(TaskRows(name, splits, texts, label))
    return found


def of_files(paths: Sequence[str]) -> list[TaskRows]:
    """Read files, whose columns are recognized as by `hft init`. Raises `DataError` where there is no text."""
    found = []
    for number, group in enumerate(grouped(paths), start=1):
        name = group.name or f"data-{number}"
        splits = {split: read(files, group.format, "line", task=name) for split, files in group.splits.items()}
        first = next(iter(splits.values()))
        table = Table(profiles(first))
        headers.refuse(table, first.sources[0])
        proposals = propose(table)
        if not proposals or not (proposals[0].texts or table.of("messages")):
            raise DataError(f"{', '.join(group.first)}: no column of texts was recognized")
        classes = [p.label for p in proposals if p.head == "classification"]
        texts = proposals[0].texts or tuple(table.of("messages")[:1])
        found.append(TaskRows(name, splits, texts, classes[0] if classes else ""))
    return found


@dataclass
class _Row:
    """A row's place in the tasks, its text and its label."""

    task: str
    split: str
    index: int
    text: str
    label: str


@dataclass
class _Counts:
    repeated: Counter[str] = field(default_factory=Counter)
    near: Counter[str] = field(default_factory=Counter)
    leaked: Counter[str] = field(default_factory=Counter)
    contradictions: int = 0


def check(tasks: Sequence[TaskRows], *, near: bool = True) -> DataReport:
    """Check the rows of all tasks; `near`: look for near duplicates too, not only for equal texts.

    Raises `UsageError` when a library that `near` needs is missing.
    """
    by_task = {task.name: [row for split in ORDER for row in _rows(task, split)] for task in tasks}
    findings, dropped = {}, []
    sketches: near_duplicates.Sketches = {}
    for task in tasks:
        counts, left_out = _repetitions(task, by_task[task.name], sketches, near=near)
        findings[task.name] = _findings(task, by_task[task.name], counts)
        dropped += left_out
    rows = [row for of_task in by_task.values() for row in of_task]
    shared = _shared(rows, sketches, near=near) if len(tasks) > 1 else {}
    return DataReport(findings, shared, tuple(dropped))


def _repetitions(
    task: TaskRows, rows: Sequence[_Row], sketches: near_duplicates.Sketches, *, near: bool
) -> tuple[_Counts, list[Dropped]]:
    """Count the rows of a task that repeat an earlier one, and list them; those of test come first, so that it is train
    which loses them."""
    groups = near_duplicates.groups([row.text for row in rows], near=near, sketches=sketches)
    counts, dropped = _Counts(), []
    for i, row in enumerate(rows):
        first = rows[groups.alike[i]]
        if first is row:
            continue
        exact = groups.same[i] == groups.alike[i]
        if row.split != first.split:
            counts.leaked[f"{row.split}/{first.split}"] += 1
        else:
            (counts.repeated if exact else counts.near)[row.split] += 1
        counts.contradictions += rows[groups.same[i]].label != row.label
        how = "the same as" if exact else "nearly the same as"
        why = f"{how} {task.splits[first.split].where(first.index)}"
        dropped.append(Dropped(row.task, row.split, row.index, task.splits[row.split].where(row.index), why))
    return counts, dropped


def _shared(rows: Sequence[_Row], sketches: near_duplicates.Sketches, *, near: bool) -> dict[str, int]:
    """Count the training rows of a task that are, or resemble, a row that another task is evaluated on."""
    alike = near_duplicates.groups([row.text for row in rows], near=near, sketches=sketches).alike
    evaluated: dict[int, set[tuple[str, str]]] = {}
    for row, group in zip(rows, alike, strict=True):
        if row.split in ("dev", "test"):
            evaluated.setdefault(group, set()).add((row.task, row.split))
    counts: Counter[str] = Counter()
    for row, group in zip(rows, alike, strict=True):
        if row.split == "train":
            others = [place for place in evaluated.get(group, ()) if place[0] != row.task]
            counts.update(f"train of {row.task} in {split} of {task}" for task, split in others)
    return dict(sorted(counts.items()))


def _rows(task: TaskRows, split: str) -> list[_Row]:
    if split not in task.splits:
        return []
    rows = task.splits[split]
    columns = [rows[name] for name in task.texts]
    labels = [as_label(value) for value in rows[task.label]] if task.label and rows.has(task.label) else []
    return [
        _Row(task.name, split, i, "\n".join(map(_text, cells)), labels[i] if labels else "")
        for i, cells in enumerate(zip(*columns, strict=True))
    ]


def _text(cell: Any) -> str:
    if isinstance(cell, Mapping):
        return str(cell.get("content", cell.get("value", "")))
    return " ".join(map(_text, cell)) if isinstance(cell, list) else "" if cell is None else str(cell)


def _findings(task: TaskRows, rows: Sequence[_Row], counts: _Counts) -> TaskFindings:
    texts, labels = [row.text for row in rows], [row.label for row in rows]
    classes = Counter(labels) if task.label else Counter()
    doubtful = label_noise.suspects(texts, labels) if len(classes) > 1 else []
    step = max(1, len(texts) // LANGUAGE_SAMPLE)
    return TaskFindings(
        rows={split: len(part) for split, part in task.splits.items()},
        repeated=dict(counts.repeated),
        near=dict(counts.near),
        leaked=dict(counts.leaked),
        contradictions=counts.contradictions,
        classes=dict(classes.most_common()),
        rare=sum(count < RARE for count in classes.values()),
        languages=languages.shares(texts[::step]),
        personal=personal_data.kinds_in(texts),
        doubtful=len(doubtful),
        examples=tuple(
            {
                "place": task.splits[rows[found.index].split].where(rows[found.index].index),
                "label": found.label,
                "likelier": found.likelier,
                "probability": round(found.probability, 4),
            }
            for found in doubtful[:SHOWN]
        ),
    )
