"""Observe a run for a tracker: its numbers, by name and by the step over all stages."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hft_core import events
from hft_core.hooks import hookimpl
from hft_core.plugins.entries import one_line
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import Chosen
from hft_core.recipe.schema import Recipe
from hft_core.runs.sender import Sender
from hft_core.runtime.files import read_json, write_json
from hft_core.tracker import Scalar, TrackedRun, Tracker

CAPACITY = 1_000
"""Records that wait while a tracker is slow; the ones after that are dropped, and counted."""
PATIENCE = 10.0
"""Seconds that the end of a run waits for a tracker."""

logger = logging.getLogger(__name__)


class Tracking:
    """An observer that records a run with one tracker, in a thread of its own.

    Steps are recorded every `every` steps, and the first and last of a stage. What the tracker raises is raised at the
    next event, so that the observer is left out from then on. `RUN/tracking/NAME.json` keeps what a resumed run needs.
    """

    def __init__(self, chosen: Chosen, folder: Path, every: int) -> None:
        """`folder`: that of all trackers of the run."""
        self._chosen, self._every = chosen, every
        self._folder = folder / chosen.entry.name
        self._memory = Memory(folder / f"{chosen.entry.name}.json")
        self._run: events.RunStarted | None = None
        self._sender: Sender | None = None
        self._tracker: Tracker | None = None

    @hookimpl
    def hft_run_started(self, event: events.RunStarted) -> None:
        self._run = event

    @hookimpl
    def hft_stage_started(self, event: events.StageStarted) -> None:
        if self._sender is None:
            self._begin(event)
        first = self._memory.first_of(event.name)
        self._record({f"stage/{event.name}/trainable": float(event.trainable)}, first + event.step)
        if event.step == 0:
            self._record(dict(_scores("dev", event.before)), first)

    @hookimpl
    def hft_step_finished(self, event: events.StepFinished) -> None:
        if not (event.step % self._every == 0 or event.step in (1, event.steps)):
            return
        values = {f"train/{task}/loss": loss for task, loss in event.losses.items()}
        values |= {f"weight/{task}": weight for task, weight in event.weights.items()}
        values |= {"train/learning_rate": event.learning_rate, "train/gradient_norm": event.gradient_norm}
        if event.seconds:
            values["train/tokens_per_second"] = event.tokens / event.seconds
        self._record(values, self._memory.first_of(event.stage) + event.step)

    @hookimpl
    def hft_evaluation_finished(self, event: events.EvaluationFinished) -> None:
        last = event.split == "test"  # measured when everything is trained
        step = self._memory.next if last else self._memory.first_of(event.stage) + event.step
        self._record(dict(_scores(event.split, event.scores)), step)

    @hookimpl
    def hft_stage_finished(self, event: events.StageFinished) -> None:
        self._memory.next = self._memory.first_of(event.result.name) + event.result.steps
        self._record(dict(_scores("after", event.result.after)), self._memory.next)

    @hookimpl
    def hft_run_finished(self, event: events.RunFinished) -> None:
        self._end(failed=False)

    @hookimpl
    def hft_run_failed(self, event: events.RunFailed) -> None:
        self._end(failed=True)

    def _begin(self, event: events.StageStarted) -> None:
        """Start the thread, which first opens the tracker. Raises `OSError` when the folder cannot be used."""
        assert self._run is not None, "run_started comes first"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._memory.read()
        run = TrackedRun(
            name=self._folder.resolve().parents[1].name,
            folder=self._folder,
            recipe=recipe_file.dump(self._run.recipe),
            settings=dict(_scalars(self._run.recipe)),
            identity=self._memory.identity,
            step=self._memory.first_of(event.name) + event.step,
        )
        self._sender = Sender(f"hft-{self._chosen.entry.name}", capacity=CAPACITY)
        self._sender.put(lambda: self._open(run))

    def _record(self, values: Mapping[str, float], step: int) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        state = self._memory.state()
        if finite and self._sender is not None:
            self._sender.put(lambda: self._send(finite, step, state))

    def _end(self, *, failed: bool) -> None:
        if self._sender is None:
            return
        sender, self._sender, name = self._sender, None, self._chosen.entry.name
        try:
            sender.close(lambda: self._finish(failed=failed), seconds=PATIENCE)
        except (Exception, SystemExit) as error:  # too late for the warnings in the run's results
            logger.warning("tracker '%s' did not finish: %s", name, one_line(error))
        if sender.dropped:
            logger.warning("tracker '%s' was too slow: %d records are missing", name, sender.dropped)

    # The following are called in the thread.

    def _open(self, run: TrackedRun) -> None:
        self._tracker = self._chosen.build_a(Tracker, run=run)  # type: ignore[type-abstract]

    def _send(self, values: Mapping[str, float], step: int, state: State) -> None:
        assert self._tracker is not None, "it was opened first"
        self._tracker.record(values, step)
        self._memory.write(self._tracker.identity, state)

    def _finish(self, *, failed: bool) -> None:
        if self._tracker is not None:
            self._tracker.finish(failed=failed)


State = dict[str, Any]


class Memory:
    """What a resumed run has to know: the tracked run's identity, and the steps before each stage."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._written: tuple[str, State] | None = None
        self._first: dict[str, int] = {}
        self.identity = ""
        self.next = 0
        """The steps of all stages so far that are finished."""

    def first_of(self, stage: str) -> int:
        """Return the number of steps before a stage, which is the next one where it is not known yet."""
        return self._first.setdefault(stage, self.next)

    def state(self) -> State:
        return {"first": dict(self._first), "next": self.next}

    def read(self) -> None:
        """Read what a stopped run left, if anything. Raises `OSError`, `ValueError`, …"""
        if self._file.is_file():
            kept = read_json(self._file)
            self.identity, self.next = str(kept["identity"]), int(kept["next"])
            self._first = {str(name): int(step) for name, step in kept["first"].items()}

    def write(self, identity: str, state: State) -> None:
        """Write what has changed. Raises `RunError`."""
        if self._written != (identity, state):
            write_json(self._file, {"identity": identity, **state})
            self._written = (identity, state)


def _scores(split: str, scores: events.Scores) -> Iterator[tuple[str, float]]:
    for task, metrics in scores.items():
        for metric, value in metrics.items():
            yield f"{split}/{task}/{metric}", value


def _scalars(recipe: Recipe) -> Iterator[tuple[str, Scalar]]:
    """Yield the single values of the recipe by dotted key; stages go by their names."""
    data = recipe.model_dump(mode="json")
    data["stages"] = {stage["name"]: stage for stage in data["stages"]}
    yield from _leaves(data, ())


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, (*path, str(key)))
    elif isinstance(value, list | tuple):
        if value and all(isinstance(part, str | int | float) for part in value):
            yield ".".join(path), ", ".join(map(str, value))
    elif value is not None:
        yield ".".join(path), value
