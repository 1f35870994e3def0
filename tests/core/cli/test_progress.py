from __future__ import annotations

import io
from contextlib import closing
from typing import Any

import pytest
from rich.console import Console

from hft_core import events
from hft_core.cli import progress
from hft_core.cli.progress import Bars, Lines

STAGE: dict[str, Any] = {
    "index": 0,
    "name": "train",
    "stages": 1,
    "tasks": ("topic",),
    "strategy": "",
    "combiner": "",
    "steps": 4,
    "trainable": 1,
    "trunk": 2,
    "heads": 1,
    "before": {},
}


def step(number: int) -> events.StepFinished:
    return events.StepFinished(
        stage="train",
        step=number,
        steps=4,
        epoch=0.0,
        losses={"topic": 1.0},
        weights={"topic": 1.0},
        learning_rate=1e-4,
        gradient_norm=1.0,
        rows=8,
        tokens=80,
        seconds=1.0,
    )


SCORING = events.EvaluationStarted(stage="train", split="test", tasks=("topic",))
SCORED = events.EvaluationFinished(
    stage="train", split="test", step=4, scores={"topic": {"accuracy": 1.0}}, seconds=1.0
)


def test_the_bar_says_what_happens_after_the_last_step_and_labels_its_times() -> None:
    bars = Bars(Console(file=io.StringIO(), width=200, force_terminal=True))

    def shown() -> str:
        page = Console(file=io.StringIO(), width=200)
        page.print(bars._progress.get_renderable())
        return str(page.file.getvalue())  # type: ignore[attr-defined]

    with closing(bars):
        bars.hft_stage_started(events.StageStarted(**STAGE))
        bars.hft_step_finished(step(2))
        assert "0:00 elapsed 0:00 left" in shown()
        bars.hft_step_finished(step(4))
        bars.hft_evaluation_started(SCORING)
        assert "4/4 0:00 elapsed scoring test …" in shown()
        bars.hft_evaluation_finished(SCORED)
        assert "4/4 0:00 elapsed saving the model …" in shown()


def test_lines_say_that_the_test_rows_are_scored() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    lines.hft_evaluation_started(events.EvaluationStarted(stage="train", split="dev", tasks=("topic",)))
    assert said == []
    lines.hft_evaluation_started(SCORING)
    assert said == ["scoring test: topic"]


@pytest.mark.parametrize(("resumed_at", "left"), [(0, 10.0), (1, 20.0)])
def test_the_time_left_is_that_of_the_steps_of_this_process(
    resumed_at: int, left: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 0.0, 10.0])  # two steps of a new stage, or one of a resumed one, took ten seconds
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    lines = Lines(lambda line: None)
    lines.hft_stage_started(events.StageStarted(**STAGE, step=resumed_at))
    assert lines._seconds_left(step(2)) == pytest.approx(left)
