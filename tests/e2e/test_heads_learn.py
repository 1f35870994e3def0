"""Each head learns what can be learned from a few rows, and says so by its metrics."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

import hft_core
from hft_core import Catalogue
from hft_core.data import loading
from hft_core.data.examples import encode
from hft_core.device.machine import find_machine
from hft_core.predict import saved_run
from hft_core.training import evaluation

TASKS: dict[str, dict[str, Any]] = {
    "classification": {"head": "classification"},
    "bce": {"head": "classification", "loss": "bce", "labels": ["animals", "money"]},
    "pair": {"head": "classification", "text": ["text", "other"], "label": "other_label"},
    "regression": {"head": "regression", "label": "score"},
    "mlm": {"head": "mlm"},
    "whole-word": {"head": "mlm", "masking": "whole-word"},
    "clm": {"head": "clm"},
}


def learned(
    model: Any, task: str, toys: ModuleType, steps: int = 60, **stage: Any
) -> tuple[dict[str, float], dict[str, float]]:
    """The test scores at the start of a run and at its end."""
    classes = 2 if task == "bce" else 3
    parts = {
        split: [{**row, "other_label": row["label"]} for row in toys.rows(count, seed=seed, classes=classes)]
        for split, count, seed in (("train", 120, 0), ("dev", 40, 1), ("test", 40, 2))
    }
    common = {"strategy": "full", "learning_rate": 5e-3, "per_device_train_batch_size": 16, "head_warmup_steps": 0}

    def run(steps: int) -> dict[str, float]:
        recipe = {
            "backbone": {"model": str(model), "dropout": 0.0},
            "tasks": {task: TASKS[task]},
            "stages": [{**common, "max_steps": steps, "eval_strategy": "no", **stage}],
            "precision": "fp32",
        }
        return hft_core.run(recipe, data={task: parts}).final["test"][task]

    return run(1), run(steps)


@pytest.mark.parametrize("model", ["bert", "llama"])
@pytest.mark.parametrize("task", ["classification", "bce", "pair", "regression"])
def test_supervised_heads_learn(task: str, model: str, models: Any, toys: ModuleType) -> None:
    before, after = learned(models[model], task, toys)
    assert after["loss"] < before["loss"] / 3
    metric, wanted = ("pearson", 0.95) if task == "regression" else ("accuracy", 0.9)
    assert after[metric] > wanted


@pytest.mark.parametrize(
    ("task", "model"), [("mlm", "bert"), ("mlm", "roberta"), ("whole-word", "bert"), ("clm", "llama"), ("clm", "gpt2")]
)
def test_language_models_learn(task: str, model: str, models: Any, toys: ModuleType) -> None:
    before, after = learned(models[model], task, toys)
    assert after["perplexity"] < before["perplexity"] / 2


@pytest.mark.sampled(1)
@pytest.mark.parametrize("strategy", ["frozen", {"type": "partial", "layers": 1}, {"type": "lora", "r": 4}])
def test_a_head_learns_under_every_strategy(strategy: Any, models: Any, toys: ModuleType) -> None:
    before, after = learned(models["bert"], "classification", toys, 400, strategy=strategy, head_learning_rate=2e-2)
    assert after["loss"] < 0.85 * before["loss"]


def test_a_family_without_heads_of_its_own_learns_as_well_and_can_be_opened_again(
    models: Any, toys: ModuleType, tmp_path: Any
) -> None:
    rows = {"train": toys.rows(120), "dev": toys.rows(40, seed=1), "test": toys.rows(40, seed=2)}
    for strategy in ("full", "lora"):
        recipe = {
            "backbone": {"model": str(models["splinter"])},
            "tasks": {"topic": {"head": "classification"}},
            "stages": [{"strategy": strategy, "max_steps": 60, "learning_rate": 5e-3}],
            "precision": "fp32",
        }
        result = hft_core.run(recipe, data={"topic": rows}, output=tmp_path / strategy)
        assert result.final["test"]["topic"]["accuracy"] > 0.9
        opened = saved_run.open_run(tmp_path / strategy, Catalogue.discover())
        head = opened.model.head("topic")
        examples = encode(loading.from_python(rows["test"], task="topic"), head, opened.model.backbone.tokenizer, 64)
        again = evaluation.score_task(opened.model, "topic", examples, find_machine("fp32"), seed=0)
        assert again == pytest.approx(result.final["test"]["topic"], abs=1e-5)
