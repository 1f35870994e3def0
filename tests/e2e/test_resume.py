"""A run that is stopped and resumed ends with the bytes of one that was never stopped."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hft_core
from hft_core import RunError, UsageError, hookimpl
from hft_core.interruption import Interrupted

TASKS = {
    "topic": {"head": "classification"},
    "score": {"head": {"type": "regression", "label": "score"}},
    "language": {"head": "mlm"},
}

CASES: dict[str, list[dict[str, Any]]] = {
    "full with a mixture that follows the scores": [
        {"strategy": "full", "sampling": {"adapt": 2.0, "patience": {"score": 1}}, "gradient_accumulation_steps": 2}
    ],
    "lora and uncertainty": [{"strategy": {"type": "lora", "r": 4, "lora_dropout": 0.1}, "combiner": "uncertainty"}],
    "a part for each task and a combiner of gradients": [
        {"strategy": {"type": "shared-task-lora", "r": 4, "task_r": 2}, "combiner": "pcgrad"}
    ],
    "two stages, and momenta of weights": [
        {"strategy": "full", "tasks": ["language"]},
        {"strategy": {"type": "adalora", "init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 1}, "combiner": "famo"},
    ],
    "a stage that goes on with the parts of the one before": [
        {"strategy": "task-bottleneck", "combiner": "gradnorm"},
        {"strategy": "adapter-fusion", "combiner": "dwa"},
    ],
}


def recipe(model: Path, stages: list[dict[str, Any]], **output: Any) -> dict[str, Any]:
    common = {
        "max_steps": 8,
        "per_device_train_batch_size": 6,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "early_stopping_patience": 5,
    }
    return {
        "backbone": str(model),
        "tasks": TASKS,
        "stages": [{**common, **stage} for stage in stages],
        "precision": "fp32",
        "output": {"logging_steps": 1, **output},
    }


def digest(folder: Path) -> dict[str, str]:
    """The hash of every tensor file of a finished run, and what it measured."""
    files = sorted((folder / "model").rglob("*.safetensors")) + sorted((folder / "combiners").glob("*"))
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    results = json.loads((folder / "results.json").read_text())
    found["final"] = json.dumps(results["final"], sort_keys=True)
    found["history"] = json.dumps([stage["history"] for stage in results["stages"]], sort_keys=True)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [
        (line["stage"], line["step"], line["losses"], line["weights"]) for line in lines if line["event"] == "step"
    ]
    found["steps"] = json.dumps(steps)
    return found


class StopAfter:
    """Ends the process's run after so many steps, as a signal would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @hookimpl
    def hft_step_finished(self) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("case", CASES)
def test_a_run_stopped_at_any_step_ends_as_one_never_stopped(
    case: str, models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    from hft_core import interruption

    stages = CASES[case]
    data = dict.fromkeys(TASKS, toys.rows(60))
    chosen = recipe(models["bert"], stages, save_strategy="steps", save_steps=4)
    hft_core.run(chosen, output=tmp_path / "whole", data=data)
    wanted = digest(tmp_path / "whole")
    for stop in (1, 2, 3, 5, 7, 9, 12)[: 5 if len(stages) == 1 else 7]:
        folder = tmp_path / f"stopped-{stop}"
        with interruption.listening(), pytest.raises(Interrupted):
            hft_core.run(chosen, output=folder, data=data, observers=[StopAfter(stop)])
        assert not (folder / "results.json").exists()
        hft_core.run(chosen, output=folder, data=data, resume=True)
        found = digest(folder)
        assert {name for name in wanted if found.get(name) != wanted[name]} == set(), f"stopped after {stop} steps"
        assert not (folder / "checkpoints").exists()


# --- what is refused, and what is reported


@pytest.fixture
def stopped(models: Any, toys: ModuleType, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """A recipe, its data, and the folder of a run of it that was stopped with two checkpoints."""
    from hft_core import interruption

    chosen = recipe(models["bert"], [{"strategy": {"type": "lora", "r": 4}}], save_strategy="steps", save_steps=2)
    data = dict.fromkeys(TASKS, toys.rows(60))
    folder = tmp_path / "run"
    with interruption.listening(), pytest.raises(Interrupted):
        hft_core.run(chosen, output=folder, data=data, observers=[StopAfter(5)])
    assert [path.name for path in sorted((folder / "checkpoints").glob("0*"))] == ["0000-00000004", "0000-00000005"]
    assert (folder / "checkpoints" / "LATEST").read_text() == "0000-00000005\n"
    return chosen, data, folder


def truncate(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def flip(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def forget(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def lose(folder: Path) -> None:
    (folder / "random.safetensors").unlink()


def age(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 0'))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncate, "optimizer.safetensors is not as it was written"),
        (flip, "weights.safetensors is not as it was written"),
        (forget, "its manifest cannot be read"),
        (lose, "random.safetensors is missing"),
        (age, "it has format 0, and this hft reads format 1"),
    ],
)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(
    damage: Callable[[Path], None], told: str, stopped: tuple[dict[str, Any], dict[str, Any], Path], tmp_path: Path
) -> None:
    chosen, data, folder = stopped
    damage(folder / "checkpoints" / "0000-00000005")
    result = hft_core.run(chosen, output=folder, data=data, resume=True)
    assert any(told in warning for warning in result.warnings), result.warnings
    hft_core.run(chosen, output=tmp_path / "whole", data=data)
    assert digest(folder) == digest(tmp_path / "whole")


def test_what_a_write_left_behind_is_no_checkpoint(stopped: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    chosen, data, folder = stopped
    beside = folder / "checkpoints" / ".0000-00000007.0123abcd"
    shutil.copytree(folder / "checkpoints" / "0000-00000005", beside)
    result = hft_core.run(chosen, output=folder, data=data, resume=True)
    assert result.warnings == ()
    assert not beside.exists()


def test_where_no_checkpoint_is_whole_nothing_is_started_anew_in_silence(
    stopped: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    chosen, data, folder = stopped
    for path in (folder / "checkpoints").glob("0*"):
        flip(path)
    with pytest.raises(UsageError, match=r"no checkpoint in .* can be used .* remove that folder"):
        hft_core.run(chosen, output=folder, data=data, resume=True)


def test_another_recipe_is_not_taken_for_the_same_run(stopped: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    chosen, data, folder = stopped
    with pytest.raises(UsageError, match="another recipe"):
        hft_core.run({**chosen, "seed": 1}, output=folder, data=data, resume=True)


def test_other_data_is_not_taken_for_the_same_run(
    stopped: tuple[dict[str, Any], dict[str, Any], Path], toys: ModuleType
) -> None:
    chosen, data, folder = stopped
    with pytest.raises(UsageError, match="task 'score', train: the rows are not those that the run began with"):
        hft_core.run(chosen, output=folder, data={**data, "score": toys.rows(60, seed=5)}, resume=True)


def test_a_finished_run_has_nothing_to_resume(stopped: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    chosen, data, folder = stopped
    hft_core.run(chosen, output=folder, data=data, resume=True)
    with pytest.raises(UsageError, match="is finished"):
        hft_core.run(chosen, output=folder, data=data, resume=True)


def test_a_folder_in_use_is_not_touched(stopped: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    from hft_core.lock import locked

    chosen, data, folder = stopped
    with locked(folder), pytest.raises(UsageError, match="in use by another run"):
        hft_core.run(chosen, output=folder, data=data, resume=True)


def test_a_full_disk_ends_the_run_and_leaves_the_last_good_checkpoint(
    stopped: tuple[dict[str, Any], dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, data, folder = stopped

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hft_core.checkpoint._sync", full)
    with pytest.raises(RunError, match=r"No space left on device; the last good one is 0000-00000005"):
        hft_core.run(chosen, output=folder, data=data, resume=True)
    monkeypatch.undo()
    assert not list((folder / "checkpoints").glob(".0*"))
    hft_core.run(chosen, output=folder, data=data, resume=True)


# --- killed from outside


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import hft_core
hft_core.run(json.load(open(sys.argv[2])), output=sys.argv[3], resume=True)
"""


def started(recipe_file: Path, folder: Path) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, root, str(recipe_file), str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_killed_again_and_again_ends_as_one_never_stopped(
    case: str, models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in toys.rows(120)))
    chosen = recipe(models["bert"], CASES[case], save_strategy="steps", save_steps=1)
    chosen["tasks"] = {task: {**value, "data": str(rows)} for task, value in TASKS.items()}
    chosen["stages"] = [{**stage, "max_steps": 60, "eval_steps": 7} for stage in chosen["stages"]]
    recipe_file = tmp_path / "recipe.json"
    recipe_file.write_text(json.dumps(chosen))
    process = started(recipe_file, tmp_path / "whole")
    assert process.wait(300) == 0, process.stderr and process.stderr.read().decode()
    wanted = digest(tmp_path / "whole")
    draw, kills = random.Random(case), 0
    while True:
        process = started(recipe_file, tmp_path / "killed")
        log = tmp_path / "killed" / "log.jsonl"
        begun = log.stat().st_mtime_ns if log.exists() else 0
        while process.poll() is None and (not log.exists() or log.stat().st_mtime_ns == begun):
            time.sleep(0.02)  # until it trains again
        if kills < 5:
            time.sleep(draw.uniform(0.02, 0.5))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                continue
        assert process.wait(300) == 0, process.stderr and process.stderr.read().decode()
        break
    assert kills >= 3
    found = digest(tmp_path / "killed")
    assert {name for name in wanted if found.get(name) != wanted[name]} == set()
