"""Draft a recipe for data files: the head of each, its columns, the model, and the stages of `auto_plan`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hft_core.data.cells import group_key
from hft_core.data.files import read
from hft_core.data.rows import Rows
from hft_core.errors import DataError
from hft_core.inspection import headers, languages, model_choice
from hft_core.inspection.column_profile import profiles
from hft_core.inspection.file_groups import FileGroup, grouped, task_name
from hft_core.inspection.layouts import propose
from hft_core.inspection.model_choice import LANGUAGE
from hft_core.inspection.proposal import Proposal, Table
from hft_core.inspection.situation import auto_source
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe.yaml_source import Source

LANGUAGE_SAMPLE = 300
"""Texts of a column whose language is guessed."""
GROUPS = 20
"""Rows with the same text are kept together where there are at least so many different texts."""


@dataclass(frozen=True)
class DraftTask:
    """A task of the draft, and what was seen of its data."""

    name: str
    files: FileGroup
    rows: dict[str, int]
    """By split, or as `files`."""
    table: Table
    proposal: Proposal
    languages: dict[str, float]
    """Shares of the texts by language."""
    repeated: int
    """Rows whose texts are those of an earlier row."""
    keep_together: str
    """The column whose equal values stay in one split; empty where all of them differ."""


@dataclass(frozen=True)
class Draft:
    """A recipe as plain data, and the reasons for it."""

    data: dict[str, Any]
    tasks: dict[str, DraftTask]
    model_why: str
    """Why the model was chosen; empty for a given one."""
    reasons: tuple[str, ...]
    """For the stages and lengths."""


def draft(
    files: Sequence[str], unlabeled: Sequence[str], model: str | None, folder: Path, catalogue: Catalogue
) -> Draft:
    """Draft a recipe that is to be in `folder`. Raises `DataError` for files without a layout that is known, or with a
    row that their head refuses, and `UsageError` for a model that cannot have the tasks."""
    tasks = [task for group in grouped(files) for task in _tasks(group, labeled=True)]
    tasks += [task for group in grouped(unlabeled) for task in _tasks(group, labeled=False)]
    if model is None:
        found = model_choice.kind_for([task.proposal for task in tasks])
        chosen, why = model_choice.default_model(found, _mean_shares(tasks))
        kind: str = found
        backbone = {"type": kind, "model": chosen}
    else:
        kind, chosen, why = model_choice.kind_of(catalogue, model), model, ""
        backbone = {"model": _from(folder, model) if os.path.exists(model) else model}
    fitted = [replace(task, proposal=model_choice.fitted(task.proposal, kind, chosen)) for task in tasks]
    named = _named(fitted)
    data = {
        "backbone": backbone,
        "tasks": {name: _task_data(task, folder) for name, task in named.items()},
        "stages": [{"name": "train"}],
    }
    source, reasons = auto_source(Source.of(data, "the drafted recipe", folder), catalogue)
    return Draft({**source.data, "tasks": _ordered(source.data["tasks"])}, named, why, reasons)


def _mean_shares(tasks: Sequence[DraftTask]) -> dict[str, float]:
    """Return the shares of languages over all tasks, the largest first."""
    names = {name for task in tasks for name in task.languages}
    means = {name: sum(task.languages.get(name, 0.0) for task in tasks) / len(tasks) for name in sorted(names)}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def _tasks(group: FileGroup, *, labeled: bool) -> list[DraftTask]:
    name = group.name or "data"
    read_rows = {split: read(paths, group.format, "line", task=name) for split, paths in group.splits.items()}
    rows = next(iter(read_rows.values())) if "files" in read_rows else read_rows["train"]
    table = Table(profiles(rows))
    headers.refuse(table, rows.sources[0])
    proposals = propose(table) if labeled else _language(table)
    if not proposals:
        raise DataError(
            f"{', '.join(group.first)}: no column of texts, or of something to learn from them, was recognized; "
            f"found {', '.join(f'{column.name!r} ({column.kind})' for column in table.columns)}"
        )
    if len(proposals) > 1:
        doubt = (
            "tasks of the same texts are split independently, so that test texts of one are training texts of another; "
            "give all of them the same files for train, dev and test to avoid that"
        )
        proposals[-1] = replace(proposals[-1], unsure=(*proposals[-1].unsure, doubt))
    return [_task(group, read_rows, rows, table, proposal) for proposal in proposals]


def _language(table: Table) -> list[Proposal]:
    texts = table.texts or table.of("label")
    if not texts:
        return []
    longest = max(texts, key=lambda name: table[name].length)
    return [Proposal(LANGUAGE, {"text": longest}, "texts without labels", (), (longest,))]


def _task(group: FileGroup, splits: dict[str, Rows], rows: Rows, table: Table, proposal: Proposal) -> DraftTask:
    used = {split: part for split, part in splits.items() if not proposal.label or part.has(proposal.label)}
    doubts = [
        f"{', '.join(group.splits[split])} is not used: it has no column '{proposal.label}'"
        for split in splits
        if split not in used
    ]
    if "train" in used and "dev" not in used:
        doubts.append("no file is one for dev: the last weights are kept, not the best ones")
    repeated, together = _repeated(rows, proposal) if "files" in used else (0, "")
    texts = [text for name in proposal.texts for text in _texts(table, name)]
    step = max(1, len(texts) // LANGUAGE_SAMPLE)
    return DraftTask(
        name=group.name,
        files=FileGroup(group.name, {split: group.splits[split] for split in used}),
        rows={split: len(part) for split, part in used.items()},
        table=table,
        proposal=replace(proposal, unsure=(*proposal.unsure, *doubts)),
        languages=languages.shares(texts[::step]),
        repeated=repeated,
        keep_together=together,
    )


def _texts(table: Table, name: str) -> list[str]:
    values = table[name].present
    return [" ".join(map(str, value)) if isinstance(value, list) else str(value) for value in values]


def _repeated(rows: Rows, proposal: Proposal) -> tuple[int, str]:
    """Count the rows whose texts an earlier row has too, and name the column that is to be kept in one split."""
    columns = [rows[name] for name in proposal.texts if rows.has(name)]
    if not columns:
        return 0, ""
    repeated = len(rows) - len({tuple(map(group_key, cells)) for cells in zip(*columns, strict=True)})
    first = len({group_key(cell) for cell in columns[0]})
    grouping = proposal.head in ("ranking", "token-classification") or isinstance(columns[0][0], list)
    together = proposal.texts[0] if GROUPS <= first < len(rows) and not grouping else ""
    return repeated, together


def _named(tasks: Sequence[DraftTask]) -> dict[str, DraftTask]:
    """Name the tasks by their files, or by their labels where a file has several or a name that says nothing."""
    several = Counter(id(task.table) for task in tasks)
    found: dict[str, DraftTask] = {}
    for task in tasks:
        by_label = task_name(task.proposal.label.rpartition(".")[2])
        by_file = task.name or by_label or task.proposal.head
        name = wanted = by_label if several[id(task.table)] > 1 and by_label else by_file
        number = 2
        while name.casefold() in {taken.casefold() for taken in found}:
            name, number = f"{wanted}-{number}", number + 1
        found[name] = task
    return found


def _task_data(task: DraftTask, folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for split, paths in task.files.splits.items():
        placed = [_from(folder, path) for path in paths]
        data[split] = placed[0] if len(placed) == 1 else placed
    if task.files.format is not None:
        data["format"] = task.files.format
    if task.keep_together and "files" in data:
        data["split"] = {"by": task.keep_together}
    return {"head": task.proposal.head, **task.proposal.options, "data": data}


def _ordered(tasks: dict[str, Any]) -> dict[str, Any]:
    """Return the tasks with their keys in the order in which people write them."""
    last = ("max_length", "data")
    return {
        name: {**{k: v for k, v in task.items() if k not in last}, **{k: task[k] for k in last if k in task}}
        for name, task in tasks.items()
    }


def _from(folder: Path, path: str) -> str:
    """Return a path as a recipe in `folder` names it: relative where it lies below."""
    if "://" in path:
        return path
    whole = Path(os.path.expanduser(path)).absolute()  # noqa: PTH111
    base = folder.absolute()
    return str(whole.relative_to(base)) if whole.is_relative_to(base) else str(whole)
