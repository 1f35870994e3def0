"""Write the rows of tasks without those that a data check would leave out, and a list of the latter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hft_core.data.rows import CHECK_BATCH
from hft_core.inspection.data_check import DataReport, TaskRows

DROPPED = "dropped.jsonl"


def write(folder: Path, tasks: Sequence[TaskRows], report: DataReport) -> list[Path]:
    """Write `TASK-SPLIT.jsonl` for each split of each task, with all columns, and `dropped.jsonl`; return the paths.

    Raises `OSError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for task in tasks:
        for split, rows in task.splits.items():
            left_out = {d.index for d in report.dropped if (d.task, d.split) == (task.name, split)}
            path = folder / f"{task.name}{'' if split == 'files' else f'-{split}'}.jsonl"
            with path.open("x", encoding="utf-8") as file:
                for indices, batch in rows.batches(CHECK_BATCH):
                    for i, cells in zip(indices, zip(*batch.values(), strict=True), strict=True):
                        if i not in left_out:
                            row = dict(zip(batch, cells, strict=True))
                            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            written.append(path)
    with (folder / DROPPED).open("x", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in report.dropped)
    return [*written, folder / DROPPED]
