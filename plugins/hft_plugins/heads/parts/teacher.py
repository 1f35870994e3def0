"""Predict class probabilities with a finished run, for distillation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import hft_core
from hft_core import SavedRun
from hft_core.errors import HftError, ModelError, did_you_mean
from hft_core.head import HeadContext
from hft_core.predict import predict
from hft_plugins.heads.classification import Classification


class Teacher:
    """A classification task of a finished run, opened when it is first needed.

    It reads the student's texts with its own tokenizer, by their order: its columns may have other names.
    """

    def __init__(self, folder: Path, task: str, *, student: str, context: HeadContext | None) -> None:
        """`task`: the run's task, the teacher; `student`: the task that is trained, for messages. Without a `context`
        the run is opened with all installed plugins."""
        self.folder, self.task = folder, task
        self._student, self._context = student, context
        self._run: SavedRun | None = None

    def exists(self) -> bool:
        """Tell whether the run still exists."""
        return self._run is not None or self.folder.exists()

    def labels(self, texts: int) -> list[str]:
        """Return its classes. Raises `ValueError` when it cannot teach a student that reads `texts` texts a row."""
        head = self._head()
        names = self._columns(head)
        if len(names) != texts:
            raise ValueError(
                f"task '{self.task}' of the teacher {self.folder} reads {len(names)} texts a row ({', '.join(names)}), "
                f"but 'text' names {texts}; expected as many"
            )
        return head.labels

    def probabilities(self, texts: Sequence[Sequence[str]]) -> np.ndarray:
        """Predict the class probabilities `[rows, classes]` of rows, given their texts by column."""
        head, run = self._head(), self._opened()
        names = self._columns(head)
        rows = [dict(zip(names, cells, strict=True)) for cells in zip(*texts, strict=True)]
        answers = predict(run, self.task, rows)
        run.model.to("cpu")  # the device's memory is the student's
        return np.array([[answer["probabilities"][label] for label in head.labels] for answer in answers])

    def _opened(self) -> SavedRun:
        if self._run is None:
            try:
                catalogue = hft_core.Catalogue.discover() if self._context is None else self._context.catalogue
                self._run = hft_core.open_run(self.folder, catalogue)
            except HftError as error:
                raise ModelError(f"task '{self._student}': the teacher cannot be opened: {error}") from error
        return self._run

    def _head(self) -> Classification:
        model = self._opened().model
        if self.task not in model.heads:
            raise ValueError(
                f"the teacher {self.folder} has no task '{self.task}'.{did_you_mean(self.task, model.heads)}"
            )
        head = model.head(self.task)
        if not isinstance(head, Classification):
            raise ValueError(
                f"task '{self.task}' of the teacher {self.folder} has no classes (its head is a "
                f"{type(head).__name__}); expected a classification"
            )
        return head

    @staticmethod
    def _columns(head: Classification) -> list[str]:
        return [column.name for column in head.columns() if column.kind == "text" and not column.target]
