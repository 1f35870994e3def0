"""A run with one adapter is merged when it is opened for prediction, where that keeps its answers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hft_core
from hft_core import Catalogue
from hft_core.predict import merging, predict


@pytest.fixture(scope="module")
def runs(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("merging")
    strategies = {"lora": {"type": "lora", "r": 4}, "prefix": {"type": "prefix", "num_virtual_tokens": 4}}
    for name, strategy in strategies.items():
        recipe = {
            "backbone": {"model": str(models["bert"])},
            "tasks": {"topic": {"head": "classification"}, "language": {"head": "mlm"}},
            "stages": [{"strategy": strategy, "max_steps": 6, "learning_rate": 0.02, "head_warmup_steps": 0}],
            "precision": "fp32",
        }
        hft_core.run(recipe, data=dict.fromkeys(("topic", "language"), toys.rows(40)), output=place / name)
    return {name: place / name for name in strategies}


def opened(folder: Path, *, merge: bool) -> Any:
    return hft_core.open_run(folder, Catalogue.discover(), merge=merge)


def adapters(saved: Any) -> list[str]:
    return [name for name, _ in saved.model.trunk.named_modules() if "lora_A" in name]


def test_a_merged_run_answers_as_before_without_an_adapter(runs: dict[str, Path], toys: ModuleType) -> None:
    apart, merged = opened(runs["lora"], merge=False), opened(runs["lora"], merge=True)
    assert adapters(apart) and not adapters(merged)
    assert apart.model.strategy.adapter and not merged.model.strategy.adapter
    rows = toys.rows(12, seed=5)
    for one, other in zip(predict(apart, "topic", rows), predict(merged, "topic", rows), strict=True):
        assert one["label"] == other["label"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


def test_a_run_whose_answers_would_change_stays_apart(
    runs: dict[str, Path], toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "NEAR", -1.0)
    kept = opened(runs["lora"], merge=True)
    assert adapters(kept)
    rows = toys.rows(12, seed=5)
    assert predict(kept, "topic", rows) == predict(opened(runs["lora"], merge=False), "topic", rows)


def test_an_adapter_that_cannot_be_merged_is_left(runs: dict[str, Path], toys: ModuleType) -> None:
    kept = opened(runs["prefix"], merge=True)
    assert kept.model.strategy.virtual_tokens
    assert len(predict(kept, "topic", toys.rows(3, seed=5))) == 3
