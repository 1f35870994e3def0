"""Find the texts that the kept answers of a run belong to, in the data files that its recipe names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hft_core.data.rows import Rows
from hft_core.errors import HftError
from hft_core.plugins import provenance
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.runs import assembly
from hft_core.runtime.run_folder import RunFolder

Place = tuple[str, int]
"""File, and number of the row in it."""


@dataclass(frozen=True)
class RowTexts:
    """The rows of a run's tasks by split, as they are now."""

    rows: Mapping[str, Mapping[str, Rows]] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of each task, the columns that its head reads as input."""
    problem: str = ""
    """Why there are none."""
    split_by: Mapping[str, str] = field(default_factory=dict)
    """Of each task whose splits keep groups together, the column of the group."""

    def of(self, task: str, split: str, by: str = "") -> dict[Place, dict[str, Any]]:
        """Return the input cells of each row by place, and the cell of the column `by`; rows without it have none."""
        rows = self.rows.get(task, {}).get(split)
        if rows is None:
            return {}
        wanted = [name for name in dict.fromkeys((*self.columns[task], by)) if name and rows.has(name)]
        sources, numbers = rows.origins()
        found: dict[Place, dict[str, Any]] = {}
        for indices, cells in rows.batches(5_000, wanted):
            for i, values in zip(indices, zip(*cells.values(), strict=True), strict=True):
                place = rows.sources[int(sources[i])].name, int(numbers[i])
                found[place] = dict(zip(wanted, values, strict=True))
        return found

    def has(self, column: str) -> bool:
        return any(rows.has(column) for splits in self.rows.values() for rows in splits.values())

    def columns_of(self, tasks: Collection[str]) -> list[str]:
        """Return the names of all columns of some tasks' rows."""
        found = (name for task in tasks for rows in self.rows.get(task, {}).values() for name in rows.columns)
        return list(dict.fromkeys(found))

    def groups(self, task: str, split: str) -> dict[Place, str] | None:
        """Return the group of each row; None where rows are independent."""
        if (column := self.split_by.get(task)) is None:
            return None
        return {place: str(cells.get(column)) for place, cells in self.of(task, split, column).items()}


def row_texts(folder: Path, catalogue: Catalogue) -> RowTexts:
    """Load the rows of the run in `folder` as it did. Where that fails, the result says why."""
    run = RunFolder(folder)
    try:
        catalogue = catalogue.preferring(provenance.owners(run.plugins()))
        resolved = resolve(recipe_file.load(run.recipe), catalogue)
        heads = assembly.build_heads(resolved)
        rows = assembly.load_rows(resolved, heads, {})
    except HftError as error:
        return RowTexts(problem=str(error))
    inputs = {task: tuple(c.name for c in head.columns() if not c.target) for task, head in heads.items()}
    data = {task: part.data for task, part in resolved.recipe.tasks.items()}
    groups = {task: part.split.by for task, part in data.items() if part is not None and part.split.by is not None}
    return RowTexts(rows, inputs, split_by=groups)
