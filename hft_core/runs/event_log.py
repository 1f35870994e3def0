"""Log a run's events to `log.jsonl`, one JSON object a line."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hft_core import events
from hft_core.hooks import hookimpl
from hft_core.sanitize import finite, json_text, without_passwords

PENDING = 10_000
"""Lines that are kept in memory while the file cannot be written to."""


class RunLog:
    """An observer that appends a line for each event.

    Steps are logged in full every `every` steps and whenever one was skipped; of the others, the weights of several
    tasks. A write that fails is repeated, with the next line.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self._pending: list[bytes] = []

    @hookimpl
    def hft_run_started(self, event: events.RunStarted) -> None:
        self._write("run_started", device=event.device, precision=event.precision, reason=event.precision_reason)

    @hookimpl
    def hft_stage_started(self, event: events.StageStarted) -> None:
        self._write("stage_started", **vars(event))

    @hookimpl
    def hft_step_finished(self, event: events.StepFinished) -> None:
        if event.skipped or event.step % self.every == 0 or event.step in (1, event.steps):
            self._write("step", **vars(event))
        elif len(event.weights) > 1:
            self._write("weights", stage=event.stage, step=event.step, weights=event.weights)

    @hookimpl
    def hft_evaluation_finished(self, event: events.EvaluationFinished) -> None:
        self._write("evaluation", **{name: value for name, value in vars(event).items() if name != "by_label"})

    @hookimpl
    def hft_noticed(self, event: events.Noticed) -> None:
        self._write("noticed", **vars(event))

    @hookimpl
    def hft_checkpoint_saved(self, event: events.CheckpointSaved) -> None:
        self._write("checkpoint", stage=event.stage, step=event.step, path=str(event.path))

    @hookimpl
    def hft_stage_finished(self, event: events.StageFinished) -> None:
        result = event.result
        self._write(
            "stage_finished", stage=result.name, steps=result.steps, best_step=result.best_step, after=result.after
        )

    @hookimpl
    def hft_run_finished(self, event: events.RunFinished) -> None:
        self._write("run_finished", seconds=event.result.seconds, final=event.result.final)

    @hookimpl
    def hft_run_failed(self, event: events.RunFailed) -> None:
        if self.path.exists():  # a run that fails before it begins leaves its folder unused
            message = without_passwords(f"{type(event.error).__name__}: {event.error}")
            self._write("run_failed", stage=event.stage, error=message)

    def _write(self, kind: str, **facts: Mapping[str, Any] | Any) -> None:
        """Append a line after those that could not be written before; where that fails, keep it for the next time.

        Raises `OSError` when the run is over and its last lines cannot be written.
        """
        line = {"event": kind, "time": round(time.time(), 3), **finite(facts)}
        self._pending.append((json_text(line, allow_nan=False) + "\n").encode())
        try:
            self._append(b"".join(self._pending))
        except OSError:
            if kind in ("run_finished", "run_failed"):
                raise
            del self._pending[:-PENDING]
        else:
            self._pending.clear()

    def _append(self, content: bytes) -> None:
        """Append all of `content`, or nothing. Raises `OSError`."""
        with open(self.path, "ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                left = memoryview(content)
                while left:
                    left = left[file.write(left) :]
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise
