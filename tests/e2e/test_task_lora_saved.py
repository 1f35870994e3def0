"""Each task's part of a run, opened by PEFT alone, and by hft again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import hft_core
from hft_core import Catalogue, ModelError
from hft_core.backbone import Features
from hft_core.data.examples import encode
from hft_core.data.loading import from_python as python_rows
from hft_core.device.machine import find_machine
from hft_core.model.hybrid import HybridModel
from hft_core.predict import saved_run
from hft_core.runs import model_folders
from hft_core.runs.stages import Stages
from hft_core.training.evaluation import score_task

TOLERANCE = 1e-5
LABELS = {"topic": 3, "fits": 2}
STRATEGIES: dict[str, dict[str, Any]] = {
    "task-lora": {"type": "task-lora", "r": 4, "task_r": {"fits": 2}, "use_rslora": True},
    "shared-task-lora": {"type": "shared-task-lora", "r": 4, "task_r": 2},
    "mtl-lora": {"type": "mtl-lora", "r": 4},
    "hydra-lora": {"type": "hydra-lora", "r": 4},
}


def recipe(model: Path, name: str, *stages: dict[str, Any]) -> dict[str, Any]:
    """Tasks of two classes of transformers, trained together."""
    common = {"max_steps": 3, "learning_rate": 0.02, "head_warmup_steps": 0, "warmup_steps": 0, "eval_strategy": "no"}
    return {
        "backbone": {"model": str(model)},
        "tasks": {
            "topic": {"head": "classification"},
            "fits": {"head": "classification", "text": ["text", "other"], "label": "fits"},
            "language": {"head": "mlm" if name == "bert" else "clm"},
        },
        "stages": [{**common, **stage} for stage in stages],
        "precision": "fp32",
    }


def data(toys: ModuleType) -> dict[str, Any]:
    rows = {"train": toys.rows(40), "dev": toys.rows(12, seed=1)}
    return dict.fromkeys(("topic", "fits", "language"), rows)


def trained(prepare: Callable[..., Stages], recipe: dict[str, Any], toys: ModuleType, folder: Path) -> HybridModel:
    stages = prepare(recipe, data(toys))
    for index, stage in enumerate(stages.material.resolved.stages):
        stages.run(index, stage, fold=False)
    model = stages.material.model
    model_folders.save_model(folder, model, trunk_changed=stages.trunk_changed)
    model.eval()
    return model


def texts_of(task: str, toys: ModuleType) -> list[list[str]]:
    rows = toys.rows(5, seed=3)
    return [[row[name] for row in rows] for name in (("text", "other") if task == "fits" else ("text",))]


def our_logits(model: HybridModel, task: str, inputs: Any) -> Tensor:
    head: Any = model.head(task)
    with torch.no_grad():
        hidden = model.strategy.forward(model.backbone, dict(inputs), [(task, slice(0, len(inputs["input_ids"])))])
        if task == "language":
            return torch.stack([head.language_model(row) for row in hidden])
        logits: Tensor = head.logits(Features(hidden, inputs["input_ids"], inputs["attention_mask"]))
        return logits


def by_peft(folder: Path, task: str, name: str, source: Path) -> Any:
    """The task as plain PEFT opens it on the plain class."""
    if task == "language":
        kind = transformers.AutoModelForMaskedLM if name == "bert" else transformers.AutoModelForCausalLM
        plain = kind.from_pretrained(source)
    else:
        kind = transformers.AutoModelForSequenceClassification
        plain = kind.from_pretrained(source, num_labels=LABELS[task])
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        plain.config.pad_token_id = tokenizer.pad_token_id
    return PeftModel.from_pretrained(plain, folder).eval()


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("bert", "task-lora"),
        ("bert", "shared-task-lora"),
        ("bert", "mtl-lora"),
        ("llama", "mtl-lora"),
        ("gpt2", "task-lora"),
    ],
)
def test_each_tasks_part_opens_in_peft_with_equal_logits(
    name: str, method: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages], tmp_path: Path
) -> None:
    model = trained(prepare, recipe(models[name], name, {"strategy": STRATEGIES[method]}), toys, tmp_path)
    for task in ("topic", "fits", "language"):
        inputs = model.backbone.tokenizer(*texts_of(task, toys), padding=True, return_tensors="pt")
        plain = by_peft(tmp_path / task, task, name, models[name])
        mask = inputs["attention_mask"].bool() if task == "language" else slice(None)
        with torch.no_grad():
            logits = plain(**inputs).logits
            gap = (logits - our_logits(model, task, inputs))[mask].abs()
            with plain.disable_adapter():
                added = (logits - plain(**inputs).logits)[mask].abs()
        assert float(gap.max()) <= TOLERANCE, task
        assert float(added.max()) > 1e-2, "the part was to add something"


def tensors(folder: Path) -> dict[str, Tensor]:
    """Everything in the weight files of a saved model's tasks."""
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{path.relative_to(folder)}:{name}": t for path in files for name, t in load_file(path).items()}


@pytest.mark.parametrize("method", STRATEGIES)
def test_a_run_of_two_stages_opens_with_the_exact_parts(
    method: str, models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    strategy, other = STRATEGIES[method], {k: v for k, v in STRATEGIES[method].items() if k != "task_r"}
    stages = (
        {"strategy": strategy, "tasks": ["fits", "language"]},
        {"strategy": other, "tasks": ["topic", "language"]},
    )
    if method == "shared-task-lora":  # a plain number is of all tasks
        stages[1]["strategy"] = strategy
    made = hft_core.run(recipe(models["bert"], "bert", *stages), data=data(toys), output=tmp_path / "run")
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    model_folders.save_model(tmp_path / "again", opened.model, trunk_changed=False)
    expected, found = tensors(tmp_path / "run/model"), tensors(tmp_path / "again")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert all(stage.trainable > 0 for stage in made.stages)
    for task, rows in data(toys).items():
        examples = encode(
            python_rows(rows["dev"], task=task), opened.model.head(task), opened.model.backbone.tokenizer, 64
        )
        scores = score_task(opened.model, task, examples, find_machine("fp32"), seed=0)
        assert scores == pytest.approx(made.final["dev"][task], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("method", ["shared-task-lora", "mtl-lora", "hydra-lora"])
def test_a_task_whose_shared_parts_are_another_runs_is_refused(
    method: str, models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    hft_core.run(
        recipe(models["bert"], "bert", {"strategy": STRATEGIES[method]}), data=data(toys), output=tmp_path / "r"
    )
    file = tmp_path / "r/model/fits" / ("hydra_lora.safetensors" if method == "hydra-lora" else "parts.safetensors")
    with safe_open(file, framework="pt") as opened:
        facts = opened.metadata()
    state = load_file(file)
    name = next(name for name in sorted(state) if "lora_A" in name and not name.startswith("private."))
    save_file({**state, name: state[name] + 1}, file, metadata=facts)
    with pytest.raises(ModelError, match="its shared parts are not those of the task 'topic'"):
        saved_run.open_run(tmp_path / "r", Catalogue.discover())


def test_a_task_that_no_stage_gave_a_part_has_an_adapter_that_adds_nothing(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages], tmp_path: Path
) -> None:
    stages = ({"strategy": "full", "tasks": ["fits"]}, {"strategy": "task-lora", "tasks": ["topic", "language"]})
    hft_core.run(recipe(models["bert"], "bert", *stages), data=data(toys), output=tmp_path / "run")
    model = saved_run.open_run(tmp_path / "run", Catalogue.discover()).model
    plain = by_peft(tmp_path / "run/model/fits", "fits", "bert", tmp_path / "run/model/trunk")
    inputs = model.backbone.tokenizer(*texts_of("fits", toys), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = plain(**inputs).logits
        torch.testing.assert_close(our_logits(model, "fits", inputs), logits, atol=TOLERANCE, rtol=0)
        with plain.disable_adapter():  # the head with it
            assert float((plain(**inputs).logits - logits).abs().max()) > 1e-3
    config = json.loads((tmp_path / "run/model/fits/adapter_config.json").read_text())
    assert config["r"] == 1
    weights = load_file(tmp_path / "run/model/fits/adapter_model.safetensors")
    assert all(not tensor.any() for name, tensor in weights.items() if "lora_" in name)
