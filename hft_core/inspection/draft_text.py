"""Write a drafted recipe as YAML with what was seen of the data, and why each choice was made, as comments."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from hft_core.data.cells import as_label
from hft_core.inspection.column_profile import ColumnProfile
from hft_core.inspection.draft import Draft, DraftTask
from hft_core.inspection.proposal import Table
from hft_core.recipe.recipe_file import plain_yaml
from hft_core.sanitize import plain

WIDTH = 100
SHOWN = 12
"""Classes of a column that are listed."""


def recipe_text(draft: Draft, name: str) -> str:
    """Return the recipe that is to be in the file `name`."""
    lines = [*_comment(f"Written by hft init. Check it with: hft validate {name}; train with: hft run {name}"), ""]
    if draft.model_why:
        lines += _comment(draft.model_why)
    lines += [*_yaml({"backbone": draft.data["backbone"]}), "", "tasks:"]
    described: list[Table] = []
    for task, seen in draft.tasks.items():
        facts = [] if any(seen.table is table for table in described) else _seen(seen)
        described.append(seen.table)
        lines += [*_indented([*facts, *_task(task, seen, draft.data["tasks"][task])]), ""]
    lines += [line for reason in draft.reasons for line in _comment(reason)]
    lines += _yaml({"stages": draft.data["stages"]})
    return "\n".join(lines) + "\n"


def summary(draft: Draft) -> list[str]:
    """Return what was chosen for each task, a line each, and below it what is doubtful."""
    lines = []
    for name, task in draft.tasks.items():
        lines.append(f"{name}: {task.proposal.head}: {task.proposal.why}")
        lines += [f"  not sure: {doubt}" for doubt in task.proposal.unsure]
    return lines


def _seen(seen: DraftTask) -> list[str]:
    """Return what the files of a task hold."""
    lines = _comment(_facts(seen))
    for column in seen.table.columns:
        lines += _comment(f"  {column.name}: {_column(column)}")
    return lines


def _task(name: str, seen: DraftTask, data: dict[str, Any]) -> list[str]:
    lines = _comment(f"{seen.proposal.head}: {seen.proposal.why}")
    if seen.keep_together:
        lines += _comment(
            f"split by '{seen.keep_together}': rows in which it is the same stay in one split, since a text of train "
            "in test would be no test"
        )
    lines += [line for doubt in seen.proposal.unsure for line in _comment(f"not sure: {doubt}")]
    return [*lines, *_yaml({name: data})]


def _facts(seen: DraftTask) -> str:
    files = "; ".join(f"{', '.join(paths)}: {seen.rows[split]:,} rows" for split, paths in seen.files.splits.items())
    spoken = [f"{name}{'' if share > 0.99 else f' ({share:.0%})'}" for name, share in seen.languages.items()]
    repeated = [f"{seen.repeated:,} rows repeat the texts of an earlier one"] if seen.repeated else []
    return "; ".join([files, *([", ".join(spoken)] if spoken else []), *repeated])


def _column(column: ColumnProfile) -> str:
    blank = f"; {column.blank:.1%} of the cells are blank" if column.blank and column.kind != "empty" else ""
    return _held(column) + blank


def _held(column: ColumnProfile) -> str:
    if column.kind == "text":
        return f"texts, half of them of {column.length} words or more"
    if column.kind == "number":
        numbers = [float(value) for value in column.present]
        form = "whole numbers" if column.whole else "numbers"
        return f"{form} from {min(numbers):g} to {max(numbers):g}, {column.distinct} different ones"
    if column.kind == "label":
        counts = Counter(as_label(value) for value in column.present).most_common()
        listed = ", ".join(f"{name} {count / len(column.present):.0%}" for name, count in counts[:SHOWN])
        return f"{len(counts)} classes: {listed}{', …' if len(counts) > SHOWN else ''}"
    if column.kind in ("words", "texts", "numbers", "messages"):
        return f"lists of {column.kind}, half of them of {column.length} or more"
    what = {"tags": "tags, one for each word", "id": "keys that differ in nearly every row", "empty": "nothing"}
    return what.get(column.kind, "of a form that no head reads")


def _comment(text: str) -> list[str]:
    """Return a text as lines of comment; its own line breaks and control characters are escaped."""
    indent = text[: len(text) - len(text.lstrip())]
    wrapped = textwrap.wrap(plain(text.strip()), WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return [f"# {indent}{line}" if i == 0 else f"#   {indent}{line}" for i, line in enumerate(wrapped)]


def _yaml(data: dict[str, Any]) -> list[str]:
    return plain_yaml(data).splitlines()


def _indented(lines: Sequence[str]) -> Iterable[str]:
    return (f"  {line}" for line in lines)
