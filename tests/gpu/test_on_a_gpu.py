"""Training on a GPU is that on the CPU, and what only a GPU has works there.

`run.sh` runs this on a machine with CUDA; with `HFT_GPU_REHEARSAL=1` it is tried out on the CPU.
"""

from __future__ import annotations

import importlib.util
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
import yaml
from safetensors.torch import load_file

REHEARSAL = os.environ.get("HFT_GPU_REHEARSAL") == "1"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (torch.cuda.is_available() or REHEARSAL), reason="needs a GPU"),
]
CPU = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
GPU = CPU if REHEARSAL else {}
DEVICE = "cpu" if REHEARSAL else "cuda"
STEPS = 12
STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("bert", {"strategy": "full"}),
    "lora": ("bert", {"strategy": "lora"}),
    "frozen": ("bert", {"strategy": "frozen"}),
    "task-lora": ("bert", {"strategy": "task-lora"}),
    "pcgrad": ("bert", {"strategy": "full", "combiner": "pcgrad"}),
    "pcgrad at the representation": ("bert", {"combiner": {"type": "pcgrad", "at": "representation"}}),
    "decoder": ("llama", {"strategy": "full"}),
    "decoder, lora": ("llama", {"strategy": "lora"}),
}


@pytest.fixture
def made(models: Any, toys: ModuleType, tmp_path: Path) -> Any:
    """Makes a recipe of two classifications in the test's folder."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(120)))

    def make(model: str, stage: dict[str, Any], *, precision: str = "fp32", **backbone: Any) -> Path:
        kind = "hf-decoder" if model == "llama" else "hf-encoder"
        common = {"max_steps": STEPS, "train_batch_size": 8, "learning_rate": 1e-3, "eval_steps": 4}
        recipe = {
            "backbone": {"type": kind, "model": str(models[model]), "dropout": 0.0, **backbone},
            "tasks": {
                "topic": {"head": "classification", "data": "rows.jsonl"},
                "fits": {"head": {"type": "classification", "label": "fits"}, "data": "rows.jsonl"},
            },
            "stages": [{"name": "only", **common, **stage}],
            "precision": precision,
            "output": {"save_strategy": "steps", "save_steps": 4, "logging_steps": 1},
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return make


def start(recipe: Path, name: str, environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    command = words or ("run", str(recipe), "--out", name)
    return subprocess.Popen(
        [sys.executable, "-m", "hft_core", *command],
        cwd=recipe.parent,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(recipe: Path, name: str, environment: dict[str, str]) -> Path:
    started = start(recipe, name, environment)
    printed, _ = started.communicate(timeout=300)
    assert started.returncode == 0, printed[-3000:]
    return recipe.parent / name


def losses(run: Path) -> list[float]:
    """Return the losses of the tasks at each step, as logged."""
    events = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [loss for event in events if event["event"] == "step" for _, loss in sorted(event["losses"].items())]


def weights(run: Path) -> dict[str, torch.Tensor]:
    files = sorted(run.glob("model/**/*.safetensors"))
    return {f"{path.relative_to(run)} {name}": t for path in files for name, t in load_file(path).items()}


def results(run: Path) -> Any:
    return json.loads((run / "results.json").read_text())


@pytest.mark.parametrize("name", STAGES)
def test_a_gpu_learns_what_the_cpu_learns(name: str, made: Any) -> None:
    model, stage = STAGES[name]
    recipe = made(model, stage)
    one, other = train(recipe, "cpu", CPU), train(recipe, "gpu", GPU)
    assert results(other)["device"].startswith(DEVICE)
    assert losses(other) == pytest.approx(losses(one), rel=1e-3)
    there = weights(other)
    for key, tensor in weights(one).items():
        assert torch.allclose(tensor, there[key], atol=2e-4), key


def test_bfloat16_learns_nearly_what_float32_learns(made: Any) -> None:
    one = train(made("bert", {}), "fp32", GPU)
    other = train(made("bert", {}, precision="bf16"), "bf16", GPU)
    assert losses(other) == pytest.approx(losses(one), rel=0.05)


def test_a_stopped_run_ends_as_an_uninterrupted_one(made: Any) -> None:
    recipe = made("bert", {"strategy": "lora"})
    whole = train(recipe, "whole", GPU)
    stopped = start(recipe, "stopped", GPU)
    until = time.monotonic() + 200
    while not list((recipe.parent / "stopped" / "checkpoints").glob("*")) and stopped.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate(timeout=200)
    run = recipe.parent / "stopped"
    if not (run / "results.json").exists():  # it may have been quicker
        resumed = start(recipe, "", GPU, "resume", str(run))
        printed, _ = resumed.communicate(timeout=300)
        assert resumed.returncode == 0, printed[-3000:]
    there = weights(run)
    for key, tensor in weights(whole).items():
        assert torch.allclose(tensor, there[key], atol=2e-4), key


def test_compiled_layers_learn_the_same(made: Any) -> None:
    plain = train(made("bert", {}), "plain", GPU)
    compiled = train(made("bert", {"torch_compile": True}), "compiled", GPU)
    assert results(compiled)["stages"][0]["compilation"]["chosen"]
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-3)


def test_lora_learns_on_a_trunk_of_four_bits(made: Any) -> None:
    pytest.importorskip("bitsandbytes")
    run = train(made("llama", {"strategy": "lora", "max_steps": 40}, quantization="nf4"), "nf4", GPU)
    found = losses(run)
    assert sum(found[-20:]) < sum(found[:20])


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="needs flash_attn")
def test_flash_attention_learns_nearly_what_sdpa_learns(made: Any) -> None:
    one = train(made("llama", {}, precision="bf16"), "sdpa", GPU)
    flash = made("llama", {}, precision="bf16", attn_implementation="flash_attention_2")
    assert losses(train(flash, "flash", GPU)) == pytest.approx(losses(one), rel=0.05)
