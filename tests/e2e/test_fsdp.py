"""Two processes that divide the trunk among them (FSDP2) learn what one process does, and leave the same files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from hft_core import UsageError
from hft_core.cli import main
from hft_core.device import fsdp_settings

ROOT = Path(__file__).parents[2]
DIVIDED = {fsdp_settings.USE: "true", fsdp_settings.VERSION: "2"}
"""The environment of processes that divide the trunk."""
Hft = Callable[..., str]
InTwo = Callable[..., list[tuple[str, int]]]
LORA = {"type": "lora", "r": 4}
BATCH = {"train_batch_size": 15, "max_rows_per_batch": 5}
"""Neither is even: the processes have different numbers of rows, and of passes."""

CLASSIFIERS = {"topic": {"head": "classification"}, "score": {"head": {"type": "regression", "label": "score"}}}
LANGUAGE = {**CLASSIFIERS, "language": {"head": "mlm"}}
WRITES = {"generate": True, "max_new_tokens": 5}
ANSWERING = {
    "topic": CLASSIFIERS["topic"],
    "write": {"head": {"type": "instruction", "prompt": "text", "response": "other", **WRITES}},
}
TRANSLATING = {
    "topic": CLASSIFIERS["topic"],
    "write": {"head": {"type": "seq2seq", "source": "text", "target": "other", **WRITES}},
}

CASES: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "full, sum": ("bert", CLASSIFIERS, [{"strategy": "full", "max_grad_norm": 0.1}]),
    "full, tied embeddings": ("bert", LANGUAGE, [{"strategy": "full"}]),
    "lora, uncertainty": ("bert", LANGUAGE, [{"strategy": LORA, "combiner": "uncertainty"}]),
    "layers computed again": ("bert", CLASSIFIERS, [{"strategy": "full", "gradient_checkpointing": True}]),
    "one task a step": ("bert", LANGUAGE, [{"strategy": "full", "sampling": "round-robin"}]),
    "not linear in the losses": ("llama", CLASSIFIERS, [{"strategy": "layerwise-decay", "combiner": "famo"}]),
    "a decoder that writes": ("llama", ANSWERING, [{"strategy": "full"}]),
    "an encoder-decoder that writes": ("t5", TRANSLATING, [{"strategy": "task-lora"}]),
    "folded and whole again": ("bert", CLASSIFIERS, [{"strategy": LORA}, {"strategy": "gradual-unfreezing"}]),
    "parts that continue": (
        "bert",
        CLASSIFIERS,
        [{"strategy": "task-bottleneck"}, {"strategy": "adapter-fusion"}],
    ),
}


def written(path: Path, model: Path, rows: Path, tasks: dict[str, Any], *stages: dict[str, Any]) -> Path:
    common = {**BATCH, "max_steps": 12, "learning_rate": 1e-3, "adam_epsilon": 1e-4, "eval_strategy": "steps"}
    recipe = {
        "backbone": {"model": str(model), "dropout": 0.0},
        "tasks": {name: {**task, "data": str(rows)} for name, task in tasks.items()},
        "stages": [{**common, "eval_steps": 5, **stage} for stage in stages],
        "precision": "fp32",
        "output": {"logging_steps": 1},
    }
    path.write_text(json.dumps(recipe))
    return path


@pytest.fixture
def rows(toys: ModuleType, tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in toys.rows(61)))
    return path


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if line["event"] == "step"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "model").rglob("*.safetensors"))
    return {f"{path.relative_to(folder)}:{name}": t for path in files for name, t in load_file(path).items()}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", CASES)
def test_equals_one_process(case: str, models: Any, rows: Path, tmp_path: Path, hft: Hft) -> None:
    model, tasks, stages = CASES[case]
    recipe = str(written(tmp_path / "recipe.yaml", models[model], rows, tasks, *stages))
    whole, divided = tmp_path / "whole", tmp_path / "divided"
    hft("run", recipe, "--out", str(whole))
    hft("run", recipe, "--out", str(divided), "--processes", "2", "--fsdp")
    one, two = losses(whole), losses(divided)
    assert [step.keys() for step in one] == [step.keys() for step in two]
    largest = max(value for step in one for value in step.values())
    assert max(abs(a[task] - b[task]) for a, b in zip(one, two, strict=True) for task in a) < 1e-5 * max(1, largest)
    assert files(whole) == files(divided)
    ours, theirs = weights(whole), weights(divided)
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-6
    results = [json.loads((folder / "results.json").read_text()) for folder in (whole, divided)]
    for split in ("dev", "test"):
        for task, scores in results[0]["final"][split].items():
            assert scores == pytest.approx(results[1]["final"][split][task], rel=1e-5, abs=1e-5), task


STOP = """
import os, signal
from hft_core import hookimpl

@hookimpl
def hft_step_finished(event):
    if event.step == 7:
        signal.raise_signal(signal.SIGTERM)
"""


@pytest.fixture
def stopped(tmp_path: Path, hft: Hft) -> Callable[[str], Path]:
    """Runs a recipe in two processes that divide the trunk, and stops it after seven steps; the run's folder."""

    def stop(recipe: str) -> Path:
        (tmp_path / "stop.py").write_text(STOP)
        options = ("--processes", "2", "--fsdp", "--plugin", str(tmp_path / "stop.py"))
        hft("run", recipe, "--out", str(tmp_path / "stopped"), *options, code=143)
        return tmp_path / "stopped"

    return stop


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", ["full, tied embeddings", "lora, uncertainty"])
def test_a_resumed_run_ends_bit_for_bit_as_an_uninterrupted_one(
    case: str, models: Any, rows: Path, tmp_path: Path, hft: Hft, stopped: Callable[[str], Path]
) -> None:
    model, tasks, stages = CASES[case]
    recipe = str(written(tmp_path / "recipe.yaml", models[model], rows, tasks, *stages))
    whole = tmp_path / "whole"
    hft("run", recipe, "--out", str(whole), "--processes", "2", "--fsdp")
    folder = stopped(recipe)
    hft("resume", str(folder), "--processes", "2", "--fsdp")
    ours, theirs = weights(whole), weights(folder)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert losses(folder) == losses(whole)


@pytest.mark.slow
def test_a_divided_run_is_resumed_in_one_process(
    models: Any, rows: Path, tmp_path: Path, hft: Hft, stopped: Callable[[str], Path]
) -> None:
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows, CLASSIFIERS, {"strategy": "full"}))
    whole = tmp_path / "whole"
    hft("run", recipe, "--out", str(whole))
    folder = stopped(recipe)
    hft("resume", str(folder))
    ours, theirs = weights(whole), weights(folder)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-6


@pytest.mark.slow
def test_a_divided_run_with_tied_weights_is_resumed_divided_only(
    models: Any, rows: Path, tmp_path: Path, hft: Hft, stopped: Callable[[str], Path]
) -> None:
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows, LANGUAGE, {"strategy": "full"}))
    assert "the run began with FSDP" in hft("resume", str(stopped(recipe)), code=2)


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_plain_libraries_open_what_accelerate_launched(strategy: str, models: Any, rows: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    launcher = (
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"),
    )
    stage = {"strategy": LORA if strategy == "lora" else strategy}
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows, CLASSIFIERS, stage))
    command = [*launcher, "-m", "hft_core", "run", recipe, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    saved = tmp_path / "run" / "model" / "topic"
    if strategy == "full":
        assert AutoModelForSequenceClassification.from_pretrained(saved).config.num_labels == 3
        return
    plain = AutoModelForSequenceClassification.from_pretrained(models["bert"], num_labels=3)
    adapted = PeftModel.from_pretrained(plain, str(saved))
    assert any(parameter.abs().max() > 0 for name, parameter in adapted.named_parameters() if "lora_B" in name)


SHARES = """
import sys
import torch
from hft_core.device.machine import find_machine
from hft_core.model import fsdp
from hft_core.model.hybrid import HybridModel
from hft_plugins.backbones.encoder import build
from hft_plugins.backbones.options import EncoderOptions

machine = find_machine("fp32")
model = HybridModel(build(EncoderOptions(model=sys.argv[1])), {})
trunk = model.trunk
ids = torch.arange(8).view(2, 4)
before = {name: (p, p.detach().clone()) for name, p in trunk.named_parameters()}
kinds = [type(module) for module in trunk.modules()]
hidden = trunk(input_ids=ids).last_hidden_state.detach()
size = sum(p.numel() for p in trunk.parameters())
for _ in range(2):
    division = fsdp.divide(model, frozenset(id(p) for p in trunk.parameters()), machine)
    shares = [p.to_local().numel() for p in trunk.parameters()]
    held = sum(p.numel() for p, _ in before.values())
    assert torch.equal(trunk(input_ids=ids).last_hidden_state, hidden)
    with torch.no_grad(), fsdp.put_together(trunk):
        assert torch.equal(trunk.embeddings.word_embeddings.weight, before["embeddings.word_embeddings.weight"][1])
    assert [p.to_local().numel() for p in trunk.parameters()] == shares
    division.undo()
    for name, p in trunk.named_parameters():
        assert p is before[name][0] and torch.equal(p, before[name][1])
    assert [type(module) for module in trunk.modules()] == kinds
    assert torch.equal(trunk(input_ids=ids).last_hidden_state, hidden)
print(size, sum(shares), held)
"""


@pytest.mark.slow
def test_each_process_holds_its_share_until_the_trunk_is_whole_again(
    models: Any, tmp_path: Path, in_two_processes: InTwo
) -> None:
    (tmp_path / "shares.py").write_text(SHARES)
    both = in_two_processes(tmp_path / "shares.py", str(models["bert"]), **DIVIDED)
    told = [[int(n) for n in out.split()] for out, _ in both]
    (size, first, left), (_, second, _) = told
    assert first + second == size
    assert max(first, second) < 0.51 * size
    assert left == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ({"combiner": "pcgrad"}, "combiner 'pcgrad' combines the gradients of all weights"),
        ({"combiner": {"type": "graddrop", "at": "representation"}}, "combiner 'graddrop' combines the gradients"),
        ({"strategy": "l2-sp"}, "strategy 'l2-sp' reads whole weights of the trunk"),
        ({"strategy": "prompt"}, "strategy 'prompt' reads whole weights of the trunk"),
    ],
)
def test_what_needs_whole_weights_is_refused(
    stage: dict[str, Any], reason: str, models: Any, rows: Path, tmp_path: Path, hft: Hft
) -> None:
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows, CLASSIFIERS, stage))
    told = hft("run", recipe, "--out", str(tmp_path / "run"), "--processes", "2", "--fsdp", code=2)
    assert reason in told
    assert not (tmp_path / "run" / "model").exists()


def test_one_process_alone_has_nobody_to_divide_the_trunk_with(
    models: Any, rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows, CLASSIFIERS, {}))
    assert main(["run", recipe, "--fsdp"]) == 2
    assert "--fsdp divides the trunk among several processes" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({fsdp_settings.USE: "true"}, "fsdp_version: 1 is not supported, expected 2"),
        ({fsdp_settings.USE: "true", fsdp_settings.VERSION: "1"}, "fsdp_version: 1 is not supported, expected 2"),
        ({fsdp_settings.USE: "true", fsdp_settings.VERSION: "2", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        (
            {fsdp_settings.USE: "true", fsdp_settings.VERSION: "2", "FSDP_ACTIVATION_CHECKPOINTING": "True"},
            "fsdp_activation_checkpoint",
        ),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
    ],
)
def test_other_ways_to_divide_a_model_are_refused(
    given: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=reason):
        fsdp_settings.requested(None)


def test_all_processes_read_the_weights_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Accelerate's default, transformers would leave those of all but the first process as they happen to be."""
    for name, value in {fsdp_settings.USE: "true", fsdp_settings.VERSION: "2", fsdp_settings.LOADING: "true"}.items():
        monkeypatch.setenv(name, value)
    assert fsdp_settings.requested(None)
    assert os.environ[fsdp_settings.LOADING] == "false"
