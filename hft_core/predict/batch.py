"""Predict batches of columns, as `datasets.map`, Ray Data and Spark pass them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hft_core.plugins.catalogue import Catalogue
from hft_core.predict.prediction import answering, predict_tasks
from hft_core.predict.saved_run import SavedRun, open_run
from hft_core.runtime.files import file_hash
from hft_core.runtime.run_folder import RunFolder


class Batch:
    """A finished run as a function of columns: `dataset.map(Batch("runs/news"), batched=True)`.

    It opens the run when it is first called, so that it can be sent to other processes; what is sent are a path and
    names. The hash of the run's results goes along, so that caches keep answers of runs trained anew apart.
    """

    def __init__(
        self, run: str | Path, tasks: Sequence[str] | str | None = None, *, trust_remote_code: bool = False
    ) -> None:
        """`tasks`: one or more; all that have answers when left out. Raises `OSError` where no finished run is."""
        self.run = str(Path(run).absolute())
        self.tasks = None if tasks is None else [tasks] if isinstance(tasks, str) else list(tasks)
        self.trust_remote_code = trust_remote_code
        self.results = file_hash(RunFolder(Path(self.run)).results)
        self._saved: SavedRun | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_saved": None}

    def __call__(self, columns: Any) -> Any:
        """Return the answers of a batch of rows: by task, a list with an object (`label` and `probabilities`, say) for
        each row.

        `columns`: lists or arrays by name; a pandas DataFrame is returned with a column more for each task. Raises
        `DataError` for rows that do not fit.
        """
        if isinstance(columns, pd.DataFrame):
            return columns.assign(**self._answers(columns.to_dict("list")))
        return self._answers(columns)

    def frames(self, frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Yield each frame with its answers, as `__call__` does: a function for Spark's `mapInPandas`."""
        for frame in frames:
            yield self(frame)

    def _answers(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[dict[str, Any]]]:
        if self._saved is None:
            self._saved = open_run(self.run, Catalogue.discover(), trust_remote_code=self.trust_remote_code, merge=True)
        tasks = answering(self._saved) if self.tasks is None else self.tasks
        if not len(next(iter(columns.values()), ())):
            return {task: [] for task in tasks}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return predict_tasks(self._saved, rows, tasks)
