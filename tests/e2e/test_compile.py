"""A stage with compiled layers learns what it learns without; where layers cannot be compiled, the reason is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification

import hft_core
from hft_core import RunError, UsageError, hookimpl
from hft_core.acceleration import compile, decide
from hft_core.events import StageStarted, StepFinished
from hft_core.runtime import signals

TASKS = {"topic": {"head": "classification"}, "fits": {"head": {"type": "classification", "label": "fits"}}}
SMALL = 1e-2
KINDS = {"bert": "hf-encoder", "llama": "hf-decoder"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def nothing_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither this process nor its disk knows compiled code."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def recipe(models: Any, kind: str = "bert", *, stage: dict[str, Any], **backbone: Any) -> dict[str, Any]:
    common = {
        "max_steps": 8,
        "per_device_train_batch_size": 6,
        "learning_rate": 1e-3,
        "head_learning_rate": 1e-3,
        "adam_epsilon": 1e-4,
    }
    return {
        "backbone": {"type": KINDS[kind], "model": str(models[kind]), "dropout": 0.0, **backbone},
        "tasks": TASKS,
        "stages": [{**common, **stage}],
        "precision": "fp32",
        "output": {"save_strategy": "steps", "save_steps": 4},
    }


def data(toys: ModuleType) -> dict[str, Any]:
    return {task: {"train": toys.rows(40), "dev": toys.rows(12, seed=1)} for task in TASKS}


class Seen:
    """What observers are told."""

    def __init__(self) -> None:
        self.told, self.losses = "", []  # type: ignore[var-annotated]

    @hookimpl
    def hft_stage_started(self, event: StageStarted) -> None:
        self.told = event.compiled

    @hookimpl
    def hft_step_finished(self, event: StepFinished) -> None:
        self.losses += list(event.losses.values())


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted((folder / "model").rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {f"{path.relative_to(folder)}:{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def off(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest difference of a weight, relative to the largest of its tensor. Keys' biases have a gradient of 0 but
    for rounding, and values of that size: none counts as less than `SMALL`."""
    assert found.keys() == wanted.keys()
    return max(
        float((found[name] - tensor).abs().max()) / max(float(tensor.abs().max()), SMALL)
        for name, tensor in wanted.items()
    )


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_equals_the_uncompiled_stage(
    kind: str, models: Any, toys: ModuleType, tmp_path: Path, stop_after: Callable[[int], object]
) -> None:
    """Losses, weights and scores; stopped and resumed too; and what is saved opens in plain transformers."""
    told, results = {"no": Seen(), "yes": Seen()}, {}
    for choice, seen in told.items():
        given = recipe(models, kind, stage={"torch_compile": choice})
        results[choice] = hft_core.run(given, data=data(toys), output=tmp_path / choice, observers=[seen])
    (stage,) = results["yes"].stages
    assert stage.compilation == {"chosen": True, "reason": "as the recipe says"}
    assert stage.warnings == results["no"].stages[0].warnings
    assert told["yes"].told == "yes: as the recipe says"
    assert told["yes"].losses == pytest.approx(told["no"].losses, rel=1e-5)
    assert off(weights_of(tmp_path / "yes"), weights_of(tmp_path / "no")) <= 1e-5
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "yes/model/topic")
    assert not [name for name in opened.state_dict() if "_orig_mod" in name]

    given = recipe(models, kind, stage={"torch_compile": "yes"})
    with signals.listening(), pytest.raises(signals.Interrupted):
        hft_core.run(given, data=data(toys), output=tmp_path / "stopped", observers=[stop_after(5)])
    (newest,) = (tmp_path / "stopped/checkpoints").glob("0000-00000005")
    with safe_open(newest / "weights.safetensors", framework="pt") as file:
        assert not [name for name in file.keys() if "_orig_mod" in name]  # noqa: SIM118
    resumed = hft_core.run(given, data=data(toys), output=tmp_path / "stopped", resume=True)
    assert resumed.stages[0].compilation["chosen"]
    assert off(weights_of(tmp_path / "stopped"), weights_of(tmp_path / "yes")) <= 1e-6


# --- where it cannot be


IMPOSSIBLE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "layers computed again": ({"gradient_checkpointing": True}, {}, "set gradient_checkpointing: false"),
    "rows that are routed": ({"strategy": "task-lora"}, {}, "TaskLora routes rows by their task"),
    "frozen layers": (
        {"strategy": {"type": "partial", "layers": 1}, "max_steps": 30},
        {},
        "set cache_activations: no",
    ),
    "nothing that trains": ({"strategy": "frozen", "cache_activations": "no"}, {}, "nothing in the trunk trains"),
    "packed rows": ({}, {"packing": True}, "set packing: false"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_layers_that_cannot_be_compiled_are_an_error_for_yes_and_a_reason_for_auto(
    case: str, models: Any, toys: ModuleType
) -> None:
    stage, backbone, text = IMPOSSIBLE[case]
    kind = "llama" if backbone else "bert"
    with pytest.raises(UsageError, match=rf"stage 'stage-1': torch_compile is 'yes', and .*{text}.*, or set"):
        hft_core.run(recipe(models, kind, stage={**stage, "torch_compile": "yes"}, **backbone), data=data(toys))
    seen = Seen()
    given = recipe(models, kind, stage={**stage, "torch_compile": "auto"}, **backbone)
    (result,) = hft_core.run(given, data=data(toys), observers=[seen]).stages
    assert not result.compilation["chosen"]
    assert text in result.compilation["reason"]
    assert seen.told == f"no: {result.compilation['reason']}"


def test_a_missing_compiler_is_named(models: Any, toys: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"no C\+\+ compiler \('no-such-compiler'\) was found: install one"):
        hft_core.run(recipe(models, stage={"torch_compile": "yes"}), data=data(toys))


@pytest.mark.slow
def test_a_compiler_that_fails_is_an_error_for_yes_and_a_warning_for_auto(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_compiled: None
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(decide, "AUTO_DEVICES", ("cpu",))
    plain, seen = Seen(), Seen()
    hft_core.run(recipe(models, stage={}), data=data(toys), output=tmp_path / "no", observers=[plain])
    with config.patch({"cpp.cxx": (None, "/bin/false")}):
        with pytest.raises(RunError, match=r"stage 'stage-1': torch_compile is 'yes', and compilation failed \("):
            hft_core.run(recipe(models, stage={"torch_compile": "yes"}), data=data(toys))
        given = recipe(models, stage={"torch_compile": "auto"})
        (stage,) = hft_core.run(given, data=data(toys), output=tmp_path / "auto", observers=[seen]).stages
    assert not stage.compilation["chosen"]
    assert [warning for warning in stage.warnings if "the layers were not compiled: compilation failed" in warning]
    assert seen.losses == plain.losses
    assert off(weights_of(tmp_path / "auto"), weights_of(tmp_path / "no")) == 0.0


@pytest.mark.slow
def test_a_compiler_that_fails_in_the_middle_of_a_stage_ends_it_and_it_is_resumed_uncompiled(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_compiled: None
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(compile, "failure", lambda *args, **options: "")  # the shapes of the trial batch compile
    given = recipe(models, stage={"torch_compile": "yes"})
    with config.patch({"cpp.cxx": (None, "/bin/false")}), pytest.raises(RunError) as caught:
        hft_core.run(given, data=data(toys), output=tmp_path / "run")
    assert "could not be compiled for another shape of batch (InductorError: " in str(caught.value)
    assert "resume the run from its last checkpoint with TORCH_COMPILE_DISABLE=1 in the env" in str(caught.value)
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    (stage,) = hft_core.run(given, data=data(toys), output=tmp_path / "run", resume=True).stages
    assert stage.compilation == {"chosen": False, "reason": "TORCH_COMPILE_DISABLE is set"}
    assert "the layers were not compiled: TORCH_COMPILE_DISABLE is set" in stage.warnings


def test_auto_does_not_compile_on_cpus(models: Any, toys: ModuleType) -> None:
    seen = Seen()
    given = recipe(models, stage={"torch_compile": "auto", "max_steps": 1})
    (stage,) = hft_core.run(given, data=data(toys), observers=[seen]).stages
    assert stage.compilation == {"chosen": False, "reason": "auto compiles on cuda, not on cpu"}
    assert seen.told == "no: auto compiles on cuda, not on cpu"
