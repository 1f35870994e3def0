from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hft_core.events import EvaluationFinished, RunFailed, StepFinished
from hft_core.runs.event_log import RunLog


def step(number: int, **facts: Any) -> StepFinished:
    common: dict[str, Any] = {
        "stage": "s",
        "steps": 20,
        "epoch": 0.5,
        "losses": {"topic": 1.5},
        "weights": {"topic": 1.0},
        "learning_rate": 1e-4,
        "gradient_norm": 2.0,
        "rows": 8,
        "tokens": 99,
        "seconds": 0.1,
    }
    return StepFinished(step=number, **{**common, **facts})


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "log.jsonl").read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def test_every_so_many_steps_are_written_and_the_first_the_last_and_each_that_was_skipped(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl", every=7)
    for number in range(1, 21):
        log.hft_step_finished(step(number, skipped="not finite" if number == 5 else ""))
    assert [line["step"] for line in lines(tmp_path)] == [1, 5, 7, 14, 20]
    assert lines(tmp_path)[0]["losses"] == {"topic": 1.5}


def test_the_weights_of_several_tasks_are_written_for_every_step(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl", every=4)
    for number in range(1, 7):
        log.hft_step_finished(step(number, weights={"topic": 0.5, "match": number / 10}))
    found = {line["step"]: (line["event"], line["weights"]["match"]) for line in lines(tmp_path)}
    kinds = {1: "step", 2: "weights", 3: "weights", 4: "step", 5: "weights", 6: "weights"}
    assert found == {number: (kind, number / 10) for number, kind in kinds.items()}


def test_numbers_for_which_json_has_no_name_are_null(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl", every=1)
    log.hft_step_finished(step(1, losses={"topic": math.nan, "match": 0.5}, gradient_norm=math.inf))
    scores = {"language": {"loss": math.nan, "perplexity": 2.0}}
    log.hft_evaluation_finished(EvaluationFinished(stage="s", split="dev", step=1, scores=scores, seconds=0.1))
    first, second = lines(tmp_path)
    assert first["losses"] == {"topic": None, "match": 0.5}
    assert first["gradient_norm"] is None
    assert second["scores"] == {"language": {"loss": None, "perplexity": 2.0}}


def test_a_log_that_exists_is_added_to_in_readable_letters(tmp_path: Path) -> None:
    RunLog(tmp_path / "log.jsonl", every=1).hft_step_finished(step(1))
    RunLog(tmp_path / "log.jsonl", every=1).hft_run_failed(RunFailed(stage="s", error=ValueError("新闻 is missing")))
    assert [line["event"] for line in lines(tmp_path)] == ["step", "run_failed"]
    assert "ValueError: 新闻 is missing" in (tmp_path / "log.jsonl").read_text(encoding="utf-8")


def test_lines_that_could_not_be_written_follow_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(tmp_path / "log.jsonl", every=1)
    log.hft_step_finished(step(1))
    append = RunLog._append

    def fails(log: RunLog, content: bytes) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(RunLog, "_append", fails)
    log.hft_step_finished(step(2))
    monkeypatch.setattr(RunLog, "_append", append)
    log.hft_step_finished(step(3))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
