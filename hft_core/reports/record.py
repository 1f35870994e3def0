"""Read what a finished run left: its results, its log and its answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hft_core.errors import ModelError
from hft_core.file_guard import open_regular
from hft_core.runs import answers
from hft_core.runs.answers import Answers
from hft_core.runtime.files import read_json
from hft_core.runtime.run_folder import RunFolder

LONGEST_LOG = 512 * 2**20
"""Bytes of a log that are read."""


@dataclass(frozen=True)
class Step:
    """One logged step; `at` counts over all stages."""

    at: int
    stage: str
    losses: dict[str, float]
    weights: dict[str, float]
    learning_rate: float | None


@dataclass(frozen=True)
class Record:
    """A finished run, as its folder has it."""

    folder: Path
    results: dict[str, Any]
    log: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def tasks(self) -> dict[str, str]:
        """The main metric of each task."""
        metrics: dict[str, str] = self.results["main_metrics"]
        return metrics

    @property
    def stages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.results["stages"]
        return found

    @cached_property
    def starts(self) -> dict[str, int]:
        """The number of steps before each stage."""
        starts, done = {}, 0
        for stage in self.stages:
            starts[stage["name"]] = done
            done += stage["steps"]
        return starts

    @cached_property
    def steps(self) -> list[Step]:
        """The logged steps that had an update, in order; of some, the weights alone are known."""
        return [
            Step(
                at=self.starts[line["stage"]] + line["step"],
                stage=line["stage"],
                losses=_numbers(line.get("losses")),
                weights=_numbers(line.get("weights")),
                learning_rate=line.get("learning_rate"),
            )
            for line in self.log
            if line["event"] in ("step", "weights") and line.get("stage") in self.starts
        ]

    def score(self, split: str, task: str) -> float | None:
        """The task's main metric on a split; None where it was not measured."""
        value: float | None = self.results["final"].get(split, {}).get(task, {}).get(self.tasks[task])
        return value

    def dev_scores(self, task: str) -> list[tuple[float, float]]:
        """The task's main metric on dev by step."""
        metric, found = self.tasks[task], {}
        for line in self.log:
            if line["event"] == "evaluation" and line.get("split") == "dev" and line.get("stage") in self.starts:
                value = line["scores"].get(task, {}).get(metric)
                if value is not None:
                    found[float(self.starts[line["stage"]] + line["step"])] = float(value)
        return sorted(found.items())

    def answers(self, task: str, split: str) -> Answers | None:
        """The task's answers on a split; None where the run kept none. Raises `ModelError` for a damaged file."""
        path = answers.path_of(RunFolder(self.folder).predictions, split, task)
        return answers.read(path) if path.exists() else None


def read(folder: Path) -> Record:
    """Read the run in `folder`. Raises `ModelError` when it is not a finished run, or is damaged."""
    run = RunFolder(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such run folder")
    if not run.results.exists():
        raise ModelError(f"{folder} is not a finished run: it has no results ({run.results.name})")
    try:
        record = Record(folder, read_json(run.results), tuple(_lines(run.log)))
        _ = record.tasks, record.starts, record.results["final"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder}: its results cannot be read: {type(error).__name__}: {error}") from error
    return record


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log; a last line that was not written to its end is left out."""
    if not path.is_file():
        return
    with open_regular(path) as file:
        for line in file.read(LONGEST_LOG).splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                yield event


def _numbers(values: Any) -> dict[str, float]:
    return {str(k): float(v) for k, v in (values or {}).items() if isinstance(v, int | float)}
