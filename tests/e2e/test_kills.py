"""Kill a run at any instant, all of its processes or one, and compare the resumed run with an uninterrupted one.

What is killed is a fork of a process that has imported everything (`killing.py`), so that a start costs a second
instead of five. Each test runs a sample of its kills; `--whole` runs all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow

KILLED = 137
ROOT = Path(__file__).parents[2]

FULL = {
    "strategy": "full",
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,  # high enough that each evaluation has better weights than the one before
    "metric_for_best_model": "language.loss",
}
CASES: dict[str, list[dict[str, Any]]] = {
    "full": [FULL],
    "lora, uncertainty": [{"strategy": {"type": "lora", "r": 4, "lora_dropout": 0.1}, "combiner": "uncertainty"}],
    "task lora, pcgrad": [{"strategy": {"type": "shared-task-lora", "r": 4, "task_r": 2}, "combiner": "pcgrad"}],
    "two stages": [
        {"strategy": "full", "tasks": ["language"], "max_steps": 4},
        {"strategy": {"type": "lora", "r": 4, "lora_dropout": 0.1}, "combiner": "famo", "max_steps": 4},
    ],
}

SAVING = [
    ("a checkpoint is due", 2),
    ("half of its first file is there", 2),
    ("some of its files are there", 2),
    ("half of its manifest is there", 2),
    ("it is whole and not yet renamed", 2),
    ("it is renamed and not yet the LATEST", 2),
    ("it is the LATEST and the old one is there", 2),
    ("the old one has lost its name", 1),
    ("a checkpoint is saved", 2),
]
LEARNING = [
    ("the optimizer has moved", 4),
    ("in an evaluation", 5),
    ("an evaluation is done", 2),
    ("the best weights are beside their place", 1),
    ("the best weights are new", 2),
]
ENDING = [
    ("the model is half written", 2),
    ("the card is beside its place", 1),
    ("the results are beside their place", 1),
    ("the results are there and the checkpoints too", 1),
]
INSTANTS: dict[str, list[tuple[str, int]]] = {
    "full": [
        ("recipe.yaml is written beside its place", 1),
        ("the run is announced", 1),
        *SAVING,
        ("between two passes of one step", 5),
        *LEARNING,
        *ENDING,
    ],
    "lora, uncertainty": [
        ("half of its first file is there", 3),
        ("it is renamed and not yet the LATEST", 1),
        ("the optimizer has moved", 5),
        ("in an evaluation", 9),
        ("what the combiner learned is beside its place", 1),
        ("the model is half written", 1),
    ],
    "task lora, pcgrad": [
        ("between the gradients of two tasks", 13),
        ("some of its files are there", 1),
        ("the old one has lost its name", 1),
        ("the best weights are new", 1),
        ("the model is half written", 3),
    ],
    "two stages": [
        ("the first stage is over", 1),
        ("what it made is beside its place", 1),
        ("the second stage is announced", 2),
        ("the optimizer has moved", 5),
        ("half of its manifest is there", 3),
        ("what the combiner learned is beside its place", 1),
        ("the results are beside their place", 1),
    ],
}
TOGETHER: dict[str, list[tuple[str, int, str]]] = {
    "full": [
        ("between two passes of one step", 5, "whole"),
        ("between two passes of one step", 3, "other"),
        ("half of its first file is there", 2, "lead"),
        ("it is renamed and not yet the LATEST", 2, "whole"),
        ("in an evaluation", 5, "lead"),
        ("an evaluation is done", 3, "other"),
        ("the results are beside their place", 1, "whole"),
    ],
    "lora, uncertainty": [("a checkpoint is saved", 2, "lead"), ("the optimizer has moved", 4, "other")],
    "task lora, pcgrad": [
        ("between the gradients of two tasks", 9, "whole"),
        ("the old one has lost its name", 1, "whole"),
        ("the best weights are beside their place", 1, "lead"),
    ],
    "two stages": [("the first stage is over", 1, "whole"), ("the optimizer has moved", 6, "lead")],
}
"""Those of two processes, and which of them are killed."""


class Starter:
    """Starts runs by way of `killing.py`."""

    def __init__(self, folder: Path, rows: Path, model: Path) -> None:
        self.folder, self.rows, self.model = folder, rows, model
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killing.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def recipe(self, case: str) -> Path:
        """The recipe of a case as a file."""
        tasks: dict[str, Any] = {
            "topic": {"head": "classification"},
            "score": {"head": {"type": "regression", "label": "score"}},
            "language": {"head": "mlm"},
        }
        stage = {"max_steps": 6, "per_device_train_batch_size": 6, "eval_strategy": "steps", "eval_steps": 2}
        recipe = {
            "backbone": str(self.model),
            "tasks": {name: {**task, "data": str(self.rows)} for name, task in tasks.items()},
            "stages": [{**stage, **own} for own in CASES[case]],
            "precision": "fp32",
            "output": {"logging_steps": 1, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1},
        }
        path = self.folder / f"{case}.json"
        path.write_text(json.dumps(recipe))
        return path

    def start(
        self,
        case: str,
        folder: Path,
        world: int,
        *,
        kill: dict[str, Any] | None = None,
        after: float | None = None,
        arguments: list[str] | None = None,
    ) -> tuple[int, float, str]:
        """Start or resume the run in `folder`; its exit code, its seconds, and what it printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        log = folder.with_suffix(".printed")
        log.unlink(missing_ok=True)
        arguments = arguments or ["run", str(self.recipe(case)), "--out", str(folder), "--resume"]
        job = {"arguments": arguments, "world": world, "log": str(log), "kill": kill, "after": after}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["code"], answer["seconds"], log.read_text() if log.exists() else ""


@pytest.fixture(scope="module")
def starter(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    folder = tmp_path_factory.mktemp("kills")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in toys.rows(40)))
    config = json.loads((models["bert"] / "config.json").read_text())
    assert config["hidden_dropout_prob"] > 0
    assert config["attention_probs_dropout_prob"] > 0
    found = Starter(folder, rows, models["bert"])
    yield found
    assert found.process.stdin is not None
    found.process.stdin.close()
    found.process.wait(30)


Digest = dict[str, str]


Uninterrupted = Callable[[str, int], Digest]


@pytest.fixture(scope="module")
def uninterrupted(starter: Starter) -> Uninterrupted:
    """Runs a case in so many processes without stopping it, once, and returns what it leaves behind."""

    @cache
    def run(case: str, world: int) -> Digest:
        folder = starter.folder / f"whole, {case}, {world}"
        code, _, printed = starter.start(case, folder, world)
        assert code == 0, printed
        return digest(folder)

    return run


def digest(folder: Path) -> Digest:
    """The hash of every tensor file of a finished run, its losses, weights and scores; and which files it has."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.suffix == ".safetensors"
        else "there"
        for path in files
    }
    results = json.loads((folder / "results.json").read_text())
    found["final scores"] = json.dumps(results["final"], sort_keys=True)
    found["scores"] = json.dumps([stage["history"] for stage in results["stages"]], sort_keys=True)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [(line["stage"], line["step"], line["losses"], line["weights"]) for line in lines if "losses" in line]
    found["losses"] = json.dumps(steps)
    return found


def differing(found: Digest, wanted: Digest) -> set[str]:
    return {name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)}


def finish(starter: Starter, case: str, folder: Path, world: int) -> Digest:
    """Resume a killed run to its end; where it had reached that, it says so."""
    finished = (folder / "results.json").exists()
    code, _, printed = starter.start(case, folder, world)
    if finished:
        assert code != 0
        assert "is finished: there is nothing to resume" in printed
    else:
        assert code == 0, printed[-3000:]
    return digest(folder)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("case", "instant", "nth"), [(case, *instant) for case, instants in INSTANTS.items() for instant in instants]
)
def test_killed_at_any_instant_of_saving_learning_and_ending(
    case: str, instant: str, nth: int, starter: Starter, uninterrupted: Uninterrupted
) -> None:
    folder = starter.folder / f"{case}, {instant}, {nth}"
    code, _, printed = starter.start(case, folder, 1, kill={"instant": instant, "nth": nth, "who": "whole"})
    assert code == KILLED, printed[-3000:]
    assert differing(finish(starter, case, folder, 1), uninterrupted(case, 1)) == set()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("case", "instant", "nth", "who"), [(case, *kill) for case, kills in TOGETHER.items() for kill in kills]
)
def test_two_processes_of_which_one_or_both_are_killed(
    case: str, instant: str, nth: int, who: str, starter: Starter, uninterrupted: Uninterrupted
) -> None:
    folder = starter.folder / f"{case}, {instant}, {nth}, {who}"
    code, _, printed = starter.start(case, folder, 2, kill={"instant": instant, "nth": nth, "who": who})
    assert code == KILLED, printed[-3000:]
    if who != "whole":  # the one that was left has ended by itself
        assert "error: another process of the run has ended without a word" in printed, printed[-3000:]
    assert differing(finish(starter, case, folder, 2), uninterrupted(case, 2)) == set()


def test_killed_while_it_is_being_resumed_and_again_at_the_next_instant(
    starter: Starter, uninterrupted: Uninterrupted
) -> None:
    folder = starter.folder / "again and again"
    for instant, nth in (
        ("some of its files are there", 2),
        ("the run is taken up again", 1),
        ("the run is announced", 1),
        ("the best weights are beside their place", 1),
        ("the old one has lost its name", 1),
        ("half of its manifest is there", 1),
        ("in an evaluation", 2),
        ("the results are beside their place", 1),
    ):
        kill = {"instant": instant, "nth": nth, "who": "whole"}
        code, _, printed = starter.start("full", folder, 1, kill=kill)
        assert code == KILLED, (instant, printed[-3000:])
    assert differing(finish(starter, "full", folder, 1), uninterrupted("full", 1)) == set()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("case", "world", "kills"), [("full", 1, 5), ("two stages", 1, 5), ("task lora, pcgrad", 2, 4)]
)
def test_killed_at_random_instants(
    case: str, world: int, kills: int, starter: Starter, uninterrupted: Uninterrupted
) -> None:
    """Each run is killed up to three times, at moments within the time that one takes here and now; one that was faster
    and came to its end is compared, and another begun."""
    draw = random.Random(f"{case} {world}")
    code, whole, printed = starter.start(case, starter.folder / f"{case}, {world}, timed", world)
    assert code == 0, printed
    done, number = 0, 0
    deadline = time.monotonic() + 400
    while done < kills:
        assert time.monotonic() < deadline
        number += 1
        folder = starter.folder / f"{case}, {world}, random, {number}"
        for _ in range(3):
            code, _, printed = starter.start(case, folder, world, after=draw.uniform(0.3, 0.9) * whole)
            assert code in (KILLED, 0), printed[-3000:]
            if code == 0:
                break
            done += 1
            if (folder / "results.json").exists():
                break
        else:
            code = starter.start(case, folder, world)[0]
            assert code == 0
        assert differing(finish(starter, case, folder, world), uninterrupted(case, world)) == set()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("instant", "nth", "world", "sent"),
    [
        ("texts are tokenized", 3, 1, [signal.SIGTERM]),
        ("texts are tokenized", 3, 1, [signal.SIGINT]),
        ("between two passes of one step", 5, 1, [signal.SIGINT]),
        ("in an evaluation", 1, 1, [signal.SIGTERM]),  # before the first step
        ("in an evaluation", 5, 1, [signal.SIGTERM]),
        ("an evaluation begins", 5, 1, [signal.SIGINT]),  # that of the test split
        ("between two passes of one step", 3, 2, [signal.SIGTERM]),
        ("an evaluation is done", 2, 2, [signal.SIGINT]),
    ],
)
def test_a_signal_in_any_long_loop_ends_the_run_with_its_code_and_the_command_that_goes_on(
    instant: str,
    nth: int,
    world: int,
    sent: list[int],
    starter: Starter,
    uninterrupted: Uninterrupted,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    kill = {"instant": instant, "nth": nth, "who": "lead" if world == 1 else "other", "signals": sent}
    code, _, printed = starter.start("full", folder, world, kill=kill)
    assert code == 128 + sent[0], printed[-3000:]
    name = signal.Signals(sent[0]).name
    assert f"stopped by {name}; resume with: hft resume {folder}" in printed
    assert "Traceback" not in printed
    code, _, printed = starter.start("full", folder, world, arguments=["resume", str(folder)])
    assert code == 0, printed[-3000:]
    assert differing(digest(folder), uninterrupted("full", world)) == set()


@pytest.mark.parametrize("instant", ["between two passes of one step", "a checkpoint is due"])
def test_a_second_ctrl_c_ends_the_run_at_once(
    instant: str, starter: Starter, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    kill = {"instant": instant, "nth": 2, "who": "lead", "signals": [signal.SIGINT, signal.SIGINT]}
    code, _, printed = starter.start("full", folder, 1, kill=kill)
    assert code == 130, printed[-3000:]
    assert "resume with" not in printed
    assert "Traceback" not in printed
    assert differing(finish(starter, "full", folder, 1), uninterrupted("full", 1)) == set()
