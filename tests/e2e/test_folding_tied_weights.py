"""An adapter on embeddings that an LM head is tied to, folded for the next stage: everything computes what it did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import transformers

import hft_core
from hft_core import Catalogue
from hft_core.predict import prediction, saved_run
from hft_core.runs.stages import Stages
from hft_core.runtime import signals

LORA = {"type": "peft", "method": "LORA", "r": 8, "lora_alpha": 64}
METHODS: dict[str, dict[str, Any]] = {
    "lora": LORA,
    "rslora": {**LORA, "use_rslora": True},
    "dora": {**LORA, "use_dora": True},
    "trainable tokens": {"type": "peft", "method": "TRAINABLE_TOKENS", "token_indices": list(range(4, 60))},
    "lora with tokens": {**LORA, "target_modules": "all-linear", "trainable_token_indices": list(range(4, 60))},
}
EMBEDDINGS = {
    "llama": ("embed_tokens", "clm"),
    "gpt2": ("wte", "clm"),
    "bert": ("word_embeddings", "mlm"),
    "t5": ("embed_tokens", "seq2seq"),
    "bart": ("embed_tokens", "seq2seq"),
}


def tied(models: Any, name: str, folder: Path) -> Path:
    """The tiny model with an LM head that is its embedding."""
    if name != "llama":
        return Path(models[name])
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig.from_pretrained(models[name], tie_word_embeddings=True)
    )
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(models[name]).save_pretrained(folder)
    return folder


def adapting(method: str, name: str) -> dict[str, Any]:
    options, (embedding, _) = METHODS[method], EMBEDDINGS[name]
    return options if "target_modules" in options else {**options, "target_modules": [embedding]}


def recipe(model: Path, language: str, first: Any, *later: Any) -> dict[str, Any]:
    """A stage that changes much, and stages that change nothing worth mentioning."""
    head = {"head": language, "source": "text", "target": "other"} if language == "seq2seq" else {"head": language}
    stage = {"max_steps": 6, "learning_rate": 0.05, "warmup_steps": 0, "head_warmup_steps": 0}
    return {
        "backbone": {"model": str(model)},
        "tasks": {"language": head, "topic": {"head": "classification"}},
        "stages": [
            {**stage, "strategy": first},
            *({**stage, "strategy": each, "max_steps": 1, "learning_rate": 1e-12} for each in later),
        ],
        "precision": "fp32",
    }


def data(toys: ModuleType) -> dict[str, Any]:
    rows = {"train": toys.rows(40), "dev": toys.rows(16, seed=1), "test": toys.rows(16, seed=2)}
    return {"language": rows, "topic": rows}


CASES = [
    *(pytest.param("lora", name, id=f"lora-{name}") for name in EMBEDDINGS),
    *(pytest.param(method, "llama", id=f"{method}-llama") for method in METHODS if method != "lora"),
    pytest.param("trainable tokens", "bert", id="trainable tokens-bert"),
]


@pytest.mark.parametrize(("method", "name"), CASES)
def test_folding_leaves_the_losses_of_all_tasks_as_they_were(
    method: str, name: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages], tmp_path: Path
) -> None:
    language = EMBEDDINGS[name][1]
    model = tied(models, name, tmp_path / "model")
    stages = prepare(recipe(model, language, adapting(method, name), "lora"), data(toys))
    first = stages.run(0, stages.material.resolved.stages[0], fold=True)
    assert any("they are two from here on" in warning for warning in first.warnings)
    trained = {task: dict(scores) for task, scores in stages.scores.items()}
    stages.scores.clear()
    stages.measure(trained)
    for task in trained:
        assert stages.scores[task]["loss"] == pytest.approx(trained[task]["loss"], rel=1e-4), task


@pytest.mark.sampled(3)
@pytest.mark.parametrize("last", ["full", "lora"])
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_a_run_with_two_weights_of_one_opens_again(
    name: str, last: str, models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    language = EMBEDDINGS[name][1]
    model = tied(models, name, tmp_path / "model")
    rows = data(toys)
    made = hft_core.run(recipe(model, language, adapting("lora", name), last), output=tmp_path / "run", data=rows)
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    for task, parts in rows.items():
        scores = prediction.evaluate(opened, task, parts["test"])
        assert scores["loss"] == pytest.approx(made.final["test"][task]["loss"], rel=1e-4), task


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_run_stopped_after_folding_ends_as_one_never_stopped(
    name: str, models: Any, toys: ModuleType, tmp_path: Path, stop_after: Callable[[int], object]
) -> None:
    chosen = recipe(tied(models, name, tmp_path / "model"), EMBEDDINGS[name][1], adapting("lora", name), "full")
    chosen["stages"][1] |= {"max_steps": 3, "learning_rate": 1e-3}
    rows = data(toys)
    hft_core.run(chosen, output=tmp_path / "whole", data=rows)
    with signals.listening(), pytest.raises(signals.Interrupted):
        hft_core.run(chosen, output=tmp_path / "stopped", data=rows, observers=[stop_after(8)])
    hft_core.run(chosen, output=tmp_path / "stopped", data=rows, resume=True)
    for file in ("model/language/head.safetensors", "model/trunk/model.safetensors"):
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
