"""Runs with a task that streams: stopped, killed, in two processes, and beside a supervised task."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors.torch import load_file

import hft_core
from hft_core import RunError, UsageError, hookimpl
from hft_core.runtime.signals import Interrupted

pytestmark = pytest.mark.slow


@pytest.fixture
def recipe(models: Any, toys: ModuleType, tmp_path: Path) -> dict[str, Any]:
    """A stream of two files, read in blocks of 30 rows, and a supervised task; a pass over the stream is 20 steps."""
    rows = toys.rows(220)
    for name, part in (("a", rows[:70]), ("b", rows[70:160]), ("dev", rows[160:180]), ("topic", rows[180:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    stream = {"train": str(tmp_path / "[ab].jsonl"), "dev": str(tmp_path / "dev.jsonl"), "stream": True}
    return {
        "backbone": {"model": str(models["bert"]), "dropout": 0.1},
        "tasks": {
            "language": {"head": "mlm", "data": {**stream, "shuffle_buffer": 30}, "max_length": 12},
            "topic": {"head": "classification", "data": str(tmp_path / "topic.jsonl")},
        },
        "stages": [{"max_steps": 30, "train_batch_size": 16, "sampling": "uniform", "learning_rate": 1e-4}],
        "precision": "fp32",
        "output": {"logging_steps": 1, "save_strategy": "steps", "save_steps": 4},
    }


def steps(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if line["event"] == "step"]


def digest(folder: Path) -> dict[str, Any]:
    files = sorted((folder / "model").rglob("*.safetensors"))
    found: dict[str, Any] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {**found, "final": json.loads((folder / "results.json").read_text())["final"], "steps": steps(folder)}


class Kill:
    """Kills the process after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        if event.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_stopped_or_killed_in_the_middle_of_a_file_ends_as_one_never_stopped(
    recipe: dict[str, Any], tmp_path: Path, stop_after: Callable[[int], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hft_core.data import streamed_examples
    from hft_core.runtime import signals

    monkeypatch.setattr(streamed_examples, "PORTION_ROWS", 7)
    hft_core.run(recipe, output=tmp_path / "whole")
    folder = tmp_path / "stopped"
    with signals.listening(), pytest.raises(Interrupted):
        hft_core.run(recipe, output=folder, observers=[stop_after(7)])
    with signals.listening(), pytest.raises(Interrupted):
        hft_core.resume(folder, observers=[stop_after(18)])  # step 25, in the second pass
    hft_core.resume(folder)
    assert digest(folder) == digest(tmp_path / "whole")
    killed = tmp_path / "killed"
    if not (child := os.fork()):
        hft_core.run(recipe, output=killed, observers=[Kill(10)])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (killed / "checkpoints" / "LATEST").read_text() == "0000-00000008\n"
    hft_core.resume(killed)
    assert digest(killed) == digest(tmp_path / "whole")


def test_a_changed_file_is_noticed_while_the_run_reads_it_and_when_it_is_resumed(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    class Append:
        @hookimpl
        def hft_step_finished(self, event: Any) -> None:
            if event.step == 5:
                with (tmp_path / "b.jsonl").open("a") as file:
                    file.write(json.dumps({"text": "one more"}) + "\n")

    folder = tmp_path / "run"
    with pytest.raises(RunError, match=r"stage-1', step \d+: .*b.jsonl: changed since the run opened it"):
        hft_core.run(recipe, output=folder, observers=[Append()])
    with pytest.raises(UsageError, match="the rows of task 'language', train changed since"):
        hft_core.resume(folder)
    hft_core.resume(folder, accept_changed=True)
    assert len(steps(folder)) == 30  # none is lost, and none comes twice


def test_two_processes_train_on_the_rows_of_one(
    recipe: dict[str, Any], tmp_path: Path, hft: Callable[..., str]
) -> None:
    recipe["backbone"]["dropout"] = 0.0
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    one, two = tmp_path / "one", tmp_path / "two"
    hft("run", str(tmp_path / "recipe.yaml"), "--out", str(one))
    hft("run", str(tmp_path / "recipe.yaml"), "--out", str(two), "--processes", "2")
    assert len(steps(one)) == len(steps(two)) == 30
    for a, b in zip(steps(one), steps(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for path in sorted((one / "model").rglob("*.safetensors")):
        theirs = load_file(two / path.relative_to(one))
        assert all(ours.sub(theirs[name]).abs().max() < 1e-3 for name, ours in load_file(path).items())
