"""Two processes learn what one does, bit for bit the same in both, and stop and go on together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hft_core.cli.launch import free_port

pytestmark = pytest.mark.slow

CASES: dict[str, dict[str, Any]] = {
    "sum": {"strategy": "full"},
    "uncertainty": {"strategy": "full", "combiner": "uncertainty"},
    "not linear in the losses": {"strategy": "full", "combiner": "famo"},
    "random": {"strategy": {"type": "lora", "r": 4}, "combiner": "rlw"},
    "gradients": {"strategy": {"type": "shared-task-lora", "r": 4, "task_r": 2}, "combiner": "pcgrad"},
    "gradients at the representation": {"strategy": "full", "combiner": {"type": "graddrop", "at": "representation"}},
    "one task a step": {"strategy": "full", "sampling": "round-robin"},
    "gradient norms": {"strategy": {"type": "lora", "r": 4}, "combiner": "gradnorm"},
}


def written(path: Path, model: Path, rows: Path, **stage: Any) -> Path:
    data = str(rows)
    recipe = {
        "backbone": {"model": str(model), "dropout": 0.0},
        "tasks": {
            "topic": {"head": "classification", "data": data},
            "score": {"head": {"type": "regression", "label": "score"}, "data": data},
            "language": {"head": "mlm", "data": data},
            "near": {"head": {"type": "contrastive", "text": ["text", "other"]}, "data": data},
        },
        "stages": [
            {
                "max_steps": 110,
                "per_device_train_batch_size": 10,
                "gradient_accumulation_steps": 2,
                "learning_rate": 1e-4,
                "adam_epsilon": 1e-4,
                "eval_strategy": "steps",
                "eval_steps": 55,
                "load_best_model_at_end": False,
                **stage,
            }
        ],
        "precision": "fp32",
        "output": {"logging_steps": 1},
    }
    path.write_text(json.dumps(recipe))
    return path


@pytest.fixture
def rows(toys: ModuleType, tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in toys.rows(150)))
    return path


def started(*arguments: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "plugins")])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "hft_core", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-2000:]
    return error


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if line["event"] == "step"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "model").rglob("*.safetensors"))
    return {f"{path.relative_to(folder)}:{name}": t for path in files for name, t in load_file(path).items()}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: str, models: Any, rows: Path, tmp_path: Path) -> None:
    """After 100 steps the processes compare their weights bit by bit: a run that ends has found them the same."""
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows, **CASES[case]))
    finished(started("run", recipe, "--out", str(tmp_path / "one")))
    finished(started("run", recipe, "--out", str(tmp_path / "two"), "--processes", "2"))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [step.keys() for step in one] == [step.keys() for step in two]
    first = max(abs(a[task] - b[task]) for a, b in zip(one[:10], two[:10], strict=True) for task in a)
    assert first < 1e-6 * max(value for step in one for value in step.values())
    later = max(abs(a[task] - b[task]) / max(a[task], 1.0) for a, b in zip(one, two, strict=True) for task in a)
    assert later < 1e-4
    ours, theirs = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-4
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    for split in ("dev", "test"):
        for task, scores in results[0]["final"][split].items():
            assert scores == pytest.approx(results[1]["final"][split][task], abs=2e-3), task


def test_a_signal_to_one_process_stops_both_and_they_go_on_bit_for_bit(models: Any, rows: Path, tmp_path: Path) -> None:
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows, combiner="pcgrad", max_steps=150))
    finished(started("run", recipe, "--out", str(tmp_path / "whole"), "--processes", "2"))
    folder = tmp_path / "stopped"
    process = started("run", recipe, "--out", str(folder), "--processes", "2")
    log = folder / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count('"step"') > 20):
        time.sleep(0.05)
    (second,) = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _is_second_of(entry, process.pid)
    ]
    os.kill(second, signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 143, error[-2000:]
    assert f"hft resume {folder}" in error
    finished(started("resume", str(folder), "--processes", "2"))
    whole, resumed = weights(tmp_path / "whole"), weights(folder)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert losses(folder) == losses(tmp_path / "whole")


def _is_second_of(entry: Path, parent: int) -> bool:
    try:
        status = (entry / "stat").read_text().rpartition(")")[2].split()
        return int(status[1]) == parent and b"RANK=1" in (entry / "environ").read_bytes().split(b"\0")
    except (OSError, IndexError):  # it has just ended
        return False


def test_a_world_that_is_not_what_was_asked_for_is_refused(models: Any, rows: Path, tmp_path: Path) -> None:
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows))
    script = "from accelerate import Accelerator; Accelerator(cpu=True); import os; os.environ['WORLD_SIZE'] = '2'; "
    script += f"import hft_core; hft_core.run({recipe!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ})
    assert "2 processes were asked for, but Accelerate runs 1" in done.stderr


def test_all_processes_compute_in_the_number_format_that_the_first_one_found(tmp_path: Path) -> None:
    script = tmp_path / "find.py"
    script.write_text(
        "import os\n"
        "from hft_core import machine, precision\n"
        "mine = {'0': 'bf16', '1': 'fp32'}[os.environ['RANK']]\n"
        "precision.choose = lambda wanted, device: precision.Precision(mine, 'measured', 1.0)\n"
        "print(machine.find('auto').precision.name)\n"
    )
    root = Path(__file__).parents[2]
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "plugins")]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    both = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == ["bf16", "bf16"]
