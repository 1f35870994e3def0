"""Report splits of evaluation in which all rows have the same answer: a constant scores as well as the best model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hft_core.data.cells import as_label, as_list, as_number, shown
from hft_core.data.rows import Rows

if TYPE_CHECKING:
    from hft_core.head import Column

FEW = 8
"""So few rows may well have one answer by chance."""


def warnings(columns: Mapping[str, Sequence[Column]], rows: Mapping[str, Mapping[str, Rows]]) -> list[str]:
    """Return a line for each such split. `columns`: what the head of each task reads; `rows`: by task and split."""
    found = []
    for task, splits in rows.items():
        target = next((c for c in columns[task] if c.target and (c.kind in ("number", "text") or c.classes)), None)
        for split in ("dev", "test"):
            part = splits.get(split)
            if part is None or len(part) < FEW or target is None or not part.has(target.name):
                continue
            answers = {_answer(cell, target) for cell in part[target.name]}
            if len(answers) == 1:
                found.append(
                    f"task '{task}': all {len(part)} {split} rows have {_told(answers.pop())} in column "
                    f"'{target.name}': their scores do not tell models apart"
                )
    return found


def _answer(cell: Any, column: Column) -> Hashable:
    """Return what is equal for equal answers; of several labels or texts, which ones they are."""
    if column.many:
        return frozenset(map(as_label, as_list(cell, column)))
    return as_number(cell) if column.kind == "number" else as_label(cell)


def _told(answer: Any) -> str:
    if isinstance(answer, frozenset):
        return " and ".join(map(shown, sorted(answer))) or "nothing"
    return shown(answer) if isinstance(answer, str) else f"'{answer}'"
