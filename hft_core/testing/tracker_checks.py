"""Check trackers: each records a made-up run, is closed, and opened again as for a resumed run."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from hft_core.testing.check import Check, Subject, check, expect
from hft_core.tracker import Scalar, TrackedRun, Tracker

CHECKS: list[Check] = []
SETTINGS: dict[str, Scalar] = {
    "seed": 0,
    "precision": "fp32",
    "tasks.a b.head": "classification",
    "stages.fine.learning_rate": 1e-4,
}


@check("tracker", CHECKS)
def a_run_is_recorded(subject: Subject) -> None:
    """A run of several stages with any task name is recorded and finished, and the tracked run has an identity."""
    with _opened(subject) as (tracker, _):
        expect(isinstance(tracker, Tracker), "a Tracker", type(tracker).__name__)
        for step in (0, 1, 1, 5):
            tracker.record({"train/a b/loss": 1.0 / (1 + step), "dev/日本/accuracy": 0.5}, step)
        tracker.finish(failed=False)
        expect(bool(tracker.identity), "an identity of the tracked run", "an empty one")


@check("tracker", CHECKS)
def a_resumed_run_is_the_same_run(subject: Subject) -> None:
    """A failed run that is resumed keeps its identity, and starts from an earlier step."""
    with _opened(subject) as (tracker, run):
        tracker.record({"train/a/loss": 1.0}, 10)
        tracker.finish(failed=True)
        again = subject.build(run=TrackedRun(**{**vars(run), "identity": tracker.identity, "step": 5}))
        again.record({"train/a/loss": 0.5}, 6)
        again.finish(failed=False)
        expect(again.identity == tracker.identity, f"the identity {tracker.identity!r}", repr(again.identity))


@check("tracker", CHECKS)
def random_numbers_are_left_alone(subject: Subject) -> None:
    """Nothing is drawn from the global generators of Python, numpy and torch, which the run uses at the same time."""
    before = _generators()
    with _opened(subject) as (tracker, _):
        tracker.record({"train/a/loss": 1.0}, 1)
        tracker.finish(failed=False)
        after = _generators()
    drawn = [name for name, state in before.items() if after[name] != state]
    expect(not drawn, "the global generators as they were", f"numbers drawn from {', '.join(drawn)}")


@contextmanager
def _opened(subject: Subject) -> Iterator[tuple[Tracker, TrackedRun]]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place) / "run" / "tracking" / subject.entry.name
        folder.mkdir(parents=True)
        run = TrackedRun(name="run", folder=folder, recipe="seed: 0\n", settings=SETTINGS)
        yield subject.build(run=run), run


def _generators() -> dict[str, object]:
    return {
        "random": random.getstate(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002 (the global one is meant)
        "torch": torch.get_rng_state().tolist(),
    }
