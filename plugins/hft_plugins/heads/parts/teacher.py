"""A finished run that teaches: its class probabilities for texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hft_core.data import loading
from hft_core.errors import HftError, ModelError, did_you_mean
from hft_core.head import Head
from hft_core.plugins.catalogue import Catalogue
from hft_core.predict import prediction, saved_run
from hft_plugins.heads.classification import Classification


class Teacher:
    """A classification task of a finished run, opened when it is first needed.

    It reads the student's texts with its own tokenizer, by their order: its columns may have other names.
    """

    def __init__(self, folder: str, task: str | None, student: Head) -> None:
        self.folder = Path(folder)
        self.task = task or student.task
        self._student = student
        self._run: saved_run.SavedRun | None = None

    def is_there(self) -> bool:
        """Whether the run still exists."""
        return self._run is not None or self.folder.exists()

    def labels(self, texts: int) -> list[str]:
        """Its classes. Raises `ValueError` when it cannot teach a student that reads `texts` texts a row."""
        head = self._head()
        names = self._columns(head)
        if len(names) != texts:
            raise ValueError(
                f"task '{self.task}' of the teacher {self.folder} reads {len(names)} texts a row ({', '.join(names)}), "
                f"but 'text' names {texts}; expected as many"
            )
        return head.labels

    def probabilities(self, texts: Sequence[Sequence[str]]) -> np.ndarray:
        """`[rows, classes]` for the rows' texts by column."""
        head, run = self._head(), self._opened()
        names = self._columns(head)
        records = [dict(zip(names, cells, strict=True)) for cells in zip(*texts, strict=True)]
        answers = prediction.predict(run, self.task, loading.from_python(records, task=self.task))
        run.model.to("cpu")  # the device's memory is the student's
        return np.array([[answer["probabilities"][label] for label in head.labels] for answer in answers])

    def _opened(self) -> saved_run.SavedRun:
        if self._run is None:
            try:
                self._run = saved_run.open_run(self.folder, self._student.catalogue or Catalogue.discover())
            except HftError as error:
                raise ModelError(f"task '{self._student.task}': the teacher cannot be opened: {error}") from error
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
