"""Where memory is too small for a step it is divided, with an equal result; where it is too small for a row, the error
names the row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertModel

import hft_core
from hft_core import RunError, events, hookimpl
from hft_core.device.out_of_memory import is_out_of_memory
from hft_core.runtime import signals
from hft_core.runtime.signals import Interrupted

CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to …"
TASKS: dict[str, dict[str, Any]] = {
    "topic": {"head": "classification"},
    "score": {"head": {"type": "regression", "label": "score"}},
    "near": {"head": {"type": "contrastive", "text": ["text", "other"]}},
    "language": {"head": "mlm"},
}


def recipe(model: Path, tasks: dict[str, dict[str, Any]] = TASKS, **stage: Any) -> dict[str, Any]:
    common = {
        "max_steps": 6,
        "per_device_train_batch_size": 12,
        "learning_rate": 1e-4,
        "adam_epsilon": 1e-4,
        "eval_strategy": "no",
    }
    return {
        "backbone": {"model": str(model), "dropout": 0.0},
        "tasks": tasks,
        "stages": [{**common, **stage}],
        "precision": "fp32",
        "output": {"logging_steps": 1, "save_strategy": "steps", "save_steps": 2},
    }


class Short:
    """The trunk's memory: training passes of more than `rows` rows, or of a text of `tokens` tokens, do not fit."""

    def __init__(self, patch: pytest.MonkeyPatch, error: Exception, rows: int, tokens: int = 1000) -> None:
        self.largest, self.refused, forward = 0, 0, BertModel.forward

        def limited(trunk: BertModel, input_ids: Any = None, **inputs: Any) -> Any:
            if torch.is_grad_enabled() and len(input_ids):
                if len(input_ids) > rows or input_ids.shape[1] >= tokens:
                    self.refused += 1
                    raise error
                self.largest = max(self.largest, len(input_ids))
            return forward(trunk, input_ids=input_ids, **inputs)

        patch.setattr(BertModel, "forward", limited)


class Steps:
    def __init__(self, stop: int = 0) -> None:
        self.losses: list[dict[str, float]] = []
        self.stop = stop

    @hookimpl
    def hft_step_finished(self, event: events.StepFinished) -> None:
        self.losses.append(dict(event.losses))
        if event.step == self.stop:
            signal.raise_signal(signal.SIGTERM)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "model").rglob("*.safetensors"))
    return {f"{path.relative_to(folder)}:{name}": t for path in files for name, t in load_file(path).items()}


def furthest(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> float:
    assert [step.keys() for step in ours] == [step.keys() for step in theirs]
    return max(abs(a[task] - b[task]) / max(abs(b[task]), 1.0) for a, b in zip(ours, theirs, strict=True) for task in b)


@pytest.mark.parametrize(
    ("stage", "error"),
    [
        ({"strategy": "full"}, RuntimeError(CPU)),
        ({"strategy": "full", "combiner": "uncertainty"}, torch.OutOfMemoryError("CUDA out of memory. Tried …")),
        ({"strategy": {"type": "lora", "r": 4}, "combiner": "famo"}, RuntimeError("std::bad_alloc")),
        ({"strategy": {"type": "shared-task-lora", "r": 4, "task_r": 2}, "combiner": "pcgrad"}, MemoryError()),
        ({"strategy": "full", "combiner": {"type": "mgda", "at": "representation"}}, RuntimeError(CPU)),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else type(value).__name__,
)
def test_a_step_that_does_not_fit_is_divided_and_equals_the_whole_one(
    stage: dict[str, Any],
    error: Exception,
    models: Any,
    toys: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen, data = recipe(models["bert"], **stage), dict.fromkeys(TASKS, toys.rows(60))
    whole, divided = Steps(), Steps()
    result = hft_core.run(chosen, output=tmp_path / "whole", data=data, observers=[whole])
    assert not [w for w in result.warnings if "ignores the text" not in w and "texts" not in w]
    short = Short(monkeypatch, error, rows=4)
    result = hft_core.run(chosen, output=tmp_path / "divided", data=data, observers=[divided])
    assert short.refused > 0
    assert 0 < short.largest <= 4
    (warning,) = [w for w in result.warnings if "ignores the text" not in w and "texts" not in w]
    assert "memory was too small for 12 rows in one pass: steps were divided into passes of" in warning
    assert furthest(divided.losses[:2], whole.losses[:2]) < 1e-6
    assert furthest(divided.losses, whole.losses) < 5e-6  # rounding, which six steps of mgda make larger
    ours, theirs = weights(tmp_path / "divided"), weights(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5


def test_a_run_that_is_resumed_keeps_the_division(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, data = recipe(models["bert"], {"topic": TASKS["topic"]}), {"topic": toys.rows(60)}
    whole, before, after = Steps(), Steps(stop=3), Steps()
    with monkeypatch.context() as patch:
        Short(patch, RuntimeError(CPU), rows=4)
        hft_core.run(chosen, output=tmp_path / "whole", data=data, observers=[whole])
    with monkeypatch.context() as patch, signals.listening():
        Short(patch, RuntimeError(CPU), rows=4)
        with pytest.raises(Interrupted):
            hft_core.run(chosen, output=tmp_path / "stopped", data=data, observers=[before])
    roomy = Short(monkeypatch, RuntimeError(CPU), rows=1000)
    result = hft_core.run(chosen, output=tmp_path / "stopped", data=data, observers=[after], resume=True)
    assert roomy.largest == 3, "as many rows in a pass as before it was stopped"
    assert "divided into passes of 3" in result.warnings[0]
    assert [*before.losses, *after.losses] == whole.losses
    ours, theirs = weights(tmp_path / "stopped"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_row_that_does_not_fit_alone_is_named_and_nothing_is_lost(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**row, "text": " ".join(row["text"].split()[:5])} for row in toys.rows(60)]
    rows[29] = {**rows[29], "text": "the cat saw the dog " * 8}
    data = {"topic": {"train": rows, "dev": toys.rows(6)}}
    chosen = recipe(models["bert"], {"topic": TASKS["topic"]}, max_steps=10)
    with monkeypatch.context() as patch:
        Short(patch, RuntimeError(CPU), rows=1000, tokens=30)
        with pytest.raises(RunError) as caught:
            hft_core.run(chosen, output=tmp_path / "run", data=data)
    assert str(caught.value).startswith("stage 'stage-1', step ")
    assert "out of memory with a single row, number 29 of task 'topic': lower its max_length" in str(caught.value)
    assert isinstance(caught.value.__cause__ or caught.value.__context__, RuntimeError)
    result = hft_core.run(chosen, output=tmp_path / "run", data=data, resume=True)  # on a larger machine
    assert result.stages[0].steps == 10
    assert result.stages[0].skipped_steps == 0


def test_other_errors_are_no_shortage() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))


REAL = """
import ctypes, json, os, resource, sys
import torch
import hft_core
from hft_core import hookimpl
torch.set_num_threads(1)

class Limit:
    losses = []
    @hookimpl
    def hft_step_finished(self, event):
        self.losses.append(event.losses["topic"])
        if event.step == 1 and sys.argv[3] == "limited":
            ctypes.CDLL(None).malloc_trim(0)
            held = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (held + (int(sys.argv[4]) << 20), resource.RLIM_INFINITY))
        else:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

result = hft_core.run(json.load(open(sys.argv[1])), output=sys.argv[2], observers=[Limit()])
print(json.dumps({"losses": Limit.losses, "warnings": result.stages[0].warnings}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_a_real_shortage_of_memory_divides_the_step(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({**row, "text": (row["text"] + " ") * 5}) + "\n" for row in toys.rows(2400)))
    chosen = recipe(models["bert"], {"topic": {"head": "classification", "data": str(rows)}}, max_steps=3)
    chosen["stages"][0]["per_device_train_batch_size"] = 1600
    (tmp_path / "recipe.json").write_text(json.dumps(chosen))
    whole = on_a_real_machine(tmp_path, "whole", 0)
    assert isinstance(whole, dict), whole
    assert whole["warnings"] == []
    for more in range(4, 65, 4):  # what one row takes depends on the machine and its libraries
        limited = on_a_real_machine(tmp_path, "limited", more)
        if isinstance(limited, dict):
            break
        assert "out of memory with a single row" in limited, limited
    assert isinstance(limited, dict), limited
    (warning,) = limited["warnings"]
    assert "memory was too small for 1600 rows in one pass" in warning
    assert limited["losses"] == pytest.approx(whole["losses"], abs=1e-6)


def on_a_real_machine(folder: Path, name: str, more: int) -> dict[str, Any] | str:
    """What a run printed that has, from its second step on, `more` MiB beyond what it holds; or why it failed."""
    root = Path(__file__).parents[2]
    output = folder / f"{name}-{more}"
    done = subprocess.run(
        [sys.executable, "-c", REAL, str(folder / "recipe.json"), str(output), name, str(more)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root), str(root / "plugins")]),
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        return done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
