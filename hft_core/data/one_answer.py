"""Report splits of evaluation in which all rows have the same answer: a constant scores as well as the best model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hft_core.data.cells import as_label, as_number
from hft_core.data.rows import Rows

if TYPE_CHECKING:
    from hft_core.head import Column

FEW = 8
"""So few rows may well have one answer by chance."""


def warnings(columns: Mapping[str, Sequence[Column]], rows: Mapping[str, Mapping[str, Rows]]) -> list[str]:
    """Return a line for each such split. `columns`: what the head of each task reads; `rows`: by task and split."""
    found = []
    for task, splits in rows.items():
        targets = [c for c in columns[task] if c.target and not c.many and (c.kind == "number" or c.classes)]
        for split in ("dev", "test"):
            part = splits.get(split)
            if part is None or len(part) < FEW or len(targets) != 1 or not part.has(targets[0].name):
                continue
            read = as_number if targets[0].kind == "number" else as_label
            answers = {read(cell) for cell in part[targets[0].name]}
            if len(answers) == 1:
                found.append(
                    f"task '{task}': all {len(part)} {split} rows have '{answers.pop()}' in column "
                    f"'{targets[0].name}': their scores do not tell models apart"
                )
    return found
