"""Predict with runs of the page, and say which words a class depends on."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from hft_core.errors import UsageError
from hft_core.plugins.catalogue import Catalogue
from hft_core.serve.batcher import Job
from hft_core.serve.errors import Refused
from hft_core.serve.limits import Limits
from hft_core.serve.rows import rows_by_task
from hft_core.serve.schema import PredictRequest
from hft_core.serve.served_run import ServedRun, open_served

OPEN_RUNS = 2
"""Runs that are kept open."""
MOST_WORDS = 200
"""A longer text is explained by its first words."""


class Predictor:
    """Finished runs, opened when they are asked."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._runs: OrderedDict[tuple[Path, float], ServedRun] = OrderedDict()
        self._lock = threading.Lock()

    def tasks(self, folder: Path) -> list[dict[str, Any]]:
        """Return the tasks that answer, with the columns that they read."""
        run = self._open(folder)
        return [{"name": t.name, "texts": [column.name for column in t.texts]} for t in run.tasks.values()]

    def predict(self, folder: Path, task: str, texts: list[str]) -> dict[str, Any]:
        """Return a task's answer for one row of texts. Raises `UsageError`."""
        return self._answers(self._open(folder), task, [texts])[0]

    def explain(self, folder: Path, task: str, texts: list[str]) -> dict[str, Any]:
        """Return the answer, and by how much the probability of its label falls without each word of the texts.

        This is occlusion: the model reads the row again without the word, so that it holds for any head that gives
        probabilities. Raises `UsageError` for one that does not.
        """
        run = self._open(folder)
        answer = self._answers(run, task, [texts])[0]
        label, probabilities = answer.get("label"), answer.get("probabilities")
        if not isinstance(probabilities, dict) or label not in probabilities:
            raise UsageError(f"task '{task}' gives no probabilities of classes: which words mattered cannot be told")
        found, rows = [], []
        for number, text in enumerate(texts):
            for match in list(re.finditer(r"\S+", text))[:MOST_WORDS]:
                without = " ".join((text[: match.start()] + text[match.end() :]).split())
                if without:
                    rows.append([*texts[:number], without, *texts[number + 1 :]])
                    found.append({"text": number, "start": match.start(), "word": match[0]})
        said = [answer["probabilities"][label] for answer in self._answers(run, task, rows)] if rows else []
        words = [{**word, "weight": probabilities[label] - p} for word, p in zip(found, said, strict=True)]
        return {"answer": answer, "words": words}

    def _answers(self, run: ServedRun, task: str, rows: list[list[str]]) -> list[dict[str, Any]]:
        limits = Limits(items=MOST_WORDS * 8, characters=10_000_000)
        request = PredictRequest(texts=[row[0] if len(row) == 1 else row for row in rows], tasks=[task])
        try:
            work = rows_by_task(run, request, [task], limits)
        except Refused as refused:
            raise UsageError(refused.message) from refused
        (result,) = run.predict([Job(None, len(rows), run.predict, work)])
        if isinstance(result, Exception):
            raise result
        return result[task]

    def _open(self, folder: Path) -> ServedRun:
        key = (folder, (folder / "results.json").stat().st_mtime if (folder / "results.json").is_file() else 0.0)
        with self._lock:
            if key not in self._runs:
                self._runs[key] = open_served(folder.name, folder, self._catalogue)
                while len(self._runs) > OPEN_RUNS:
                    self._runs.popitem(last=False)
            self._runs.move_to_end(key)
            return self._runs[key]
