"""Trackers record a run without being able to end it, slow it or change it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import Field

import hft_core
from hft_core import Catalogue, HftError, TrackerSpec, UsageError, hookimpl
from hft_core.options import Options
from hft_core.runs import tracking
from hft_core.runs.sender import Sender
from hft_core.runtime.run_folder import RunFolder
from hft_core.tracker import TrackedRun, Tracker
from hft_plugins import backbones, combiners, heads, strategies, trackers

TAGS = {"train/topic/loss", "weight/topic", "train/learning_rate", "dev/topic/accuracy", "test/topic/accuracy"}


class Fault(Options):
    """Where it fails."""

    at: str = Field(default="", description="the call that raises")


class Kept(Tracker):
    """Keeps what it is given, for tests."""

    runs: list[TrackedRun] = []  # noqa: RUF012
    records: list[tuple[int, Mapping[str, float]]] = []  # noqa: RUF012

    def __init__(self, options: Fault, run: TrackedRun) -> None:
        self.options = options
        self.runs.append(run)
        self._may_fail("open")
        self.identity = run.identity or "first"

    def record(self, values: Mapping[str, float], step: int) -> None:
        self._may_fail("record")
        self.records.append((step, values))

    def finish(self, *, failed: bool) -> None:
        self._may_fail("finish")

    def _may_fail(self, at: str) -> None:
        if self.options.at == at:
            raise ConnectionError(f"no server at\n{at}")


def build(options: Fault, *, run: TrackedRun) -> Tracker:
    return Kept(options, run)


class Plugins:
    @hookimpl
    def hft_trackers(self) -> list[TrackerSpec]:
        common = {"summary": "For tests", "factory": f"{__name__}:build", "options": f"{__name__}:Fault"}
        return [
            TrackerSpec(name="kept", **common),
            TrackerSpec(name="absent", requires=("no-such-distribution>=1",), **common),
        ]


def catalogue() -> Catalogue:
    return Catalogue.of(backbones, heads, strategies, combiners, trackers, Plugins())


@pytest.fixture
def recipe(models: Any, toys: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    monkeypatch.setattr(Kept, "runs", [])
    monkeypatch.setattr(Kept, "records", [])

    def of(*track: Any) -> dict[str, Any]:
        stage = {"strategy": "frozen", "max_steps": 3, "train_batch_size": 4}
        return {
            "backbone": {"model": str(models["bert"])},
            "tasks": {"topic": {"head": "classification", "label": "label"}},
            "stages": [{"name": "one", **stage}, {"name": "two", **stage}],
            "precision": "fp32",
            "output": {"track": list(track), "logging_steps": 2},
        }

    return of


@pytest.fixture
def data(toys: ModuleType) -> dict[str, Any]:
    return {"topic": toys.rows(40)}


def test_a_resumed_run_goes_on_in_the_same_tensorboard_run(
    recipe: Callable[..., Any], data: Any, tmp_path: Path, one_thread: None
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    given: dict[str, Any] = {"output": tmp_path / "run", "data": data, "catalogue": catalogue()}
    with hft_core.session(recipe("tensorboard"), **given) as session:
        session.run_stage()
    result = hft_core.run(recipe("tensorboard"), resume=True, **given)
    found = EventAccumulator(str(tmp_path / "run" / "tracking" / "tensorboard")).Reload()
    assert set(found.Tags()["scalars"]) >= TAGS
    assert [event.step for event in found.Scalars("train/topic/loss")] == [1, 2, 3, 4, 5, 6]
    (test,) = found.Scalars("test/topic/accuracy")
    assert (test.step, test.value) == (6, pytest.approx(result.final["test"]["topic"]["accuracy"]))
    assert result.warnings == tuple(w for w in result.warnings if "tensorboard" not in w)


@pytest.mark.parametrize("at", ["open", "record", "finish"])
def test_a_tracker_that_fails_is_one_warning_and_changes_nothing(
    at: str, recipe: Callable[..., Any], data: Any, tmp_path: Path, one_thread: None, caplog: pytest.LogCaptureFixture
) -> None:
    given: dict[str, Any] = {"data": data, "catalogue": catalogue()}
    plain = hft_core.run(recipe(), output=tmp_path / "plain", **given)
    result = hft_core.run(recipe({"type": "kept", "at": at}), output=tmp_path / "run", **given)
    assert result.final == plain.final
    told = [
        *(w for w in result.warnings if "kept" in w),
        *(r.getMessage() for r in caplog.records if "kept" in r.msg % r.args),
    ]
    assert len(told) == 1
    assert f"ConnectionError: no server at {at}" in told[0]


def test_a_tracker_is_told_names_steps_and_settings(
    recipe: Callable[..., Any], data: Any, tmp_path: Path, one_thread: None
) -> None:
    hft_core.run(recipe("kept"), output=tmp_path / "run", data=data, catalogue=catalogue())
    (run,) = Kept.runs
    assert (run.name, run.identity, run.step) == ("run", "", 0)
    assert run.settings["stages.two.strategy.type"] == "frozen"
    steps = [step for step, _ in Kept.records]
    assert steps == sorted(steps)
    assert {name for _, values in Kept.records for name in values} >= {*TAGS, "stage/two/trainable"}


@pytest.mark.parametrize(
    ("track", "message"),
    [
        (["absent"], r"output\.track\.0: tracker 'absent'.* needs no-such-distribution.*pip install"),
        (["tensorbord"], r"output\.track\.0: .*'tensorbord'.*tensorboard"),
        (["kept", "kept"], r"output\.track\.1: the tracker 'kept' is named twice"),
        ([{"type": "kept", "att": "open"}], r"has no option 'att'.*'at'"),
        (["kept"], "without an output folder"),
    ],
)
def test_a_tracker_that_cannot_be_used_is_refused_before_anything_is_written(
    track: list[Any], message: str, recipe: Callable[..., Any], data: Any, tmp_path: Path
) -> None:
    output = None if "without" in message else tmp_path / "run"
    with pytest.raises(HftError, match=message) as refused:
        hft_core.run(recipe(*track), output=output, data=data, catalogue=catalogue())
    assert refused.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_links_of_a_tracker_itself_do_not_keep_a_run_from_being_resumed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    logs = folder.tracking / "wandb" / "logs"
    logs.mkdir(parents=True)
    folder.write_recipe("seed: 0\n")
    (logs / "debug.log").symlink_to(tmp_path)
    folder.open(resume=True)
    (folder.tracking / "tensorboard").symlink_to(tmp_path)  # what would be written there lands elsewhere
    with pytest.raises(UsageError, match="tensorboard' is a symbolic link"):
        folder.open(resume=True)


def test_what_finds_the_queue_full_is_dropped_and_nobody_waits() -> None:
    go = threading.Event()
    done: list[int] = []
    sender = Sender("slow", capacity=3)
    sender.put(go.wait)
    while sender._queue.qsize():  # until the thread has taken it
        time.sleep(0.001)
    for number in range(10):
        sender.put(lambda number=number: done.append(number))  # type: ignore[misc]
    assert sender.dropped == 7
    with pytest.raises(TimeoutError):
        sender.close(lambda: None, seconds=0.05)
    go.set()
    sender.close(lambda: done.append(-1), seconds=5)
    assert done == [0, 1, 2, -1]


def test_a_stuck_tracker_does_not_keep_a_run_from_ending(
    recipe: Callable[..., Any],
    data: Any,
    tmp_path: Path,
    one_thread: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = threading.Event()
    monkeypatch.setattr(tracking, "PATIENCE", 0.05)
    monkeypatch.setattr(Kept, "record", lambda self, values, step: go.wait(20))
    hft_core.run(recipe("kept"), output=tmp_path / "run", data=data, catalogue=catalogue())
    go.set()
    assert "tracker 'kept' did not finish" in caplog.text
