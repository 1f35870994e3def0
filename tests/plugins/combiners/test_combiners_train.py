"""Combiners in a stage of a tiny model: what the core asks of them, and what they do with it."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest

import hft_core
from hft_core import hookimpl

TASKS = {
    "topic": {"head": "classification", "text": "text", "label": "label"},
    "score": {"head": "regression", "text": "text", "label": "score"},
}


class Log:
    """The weights and losses of each step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, float]] = []
        self.losses: list[dict[str, float]] = []

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        self.weights.append(dict(event.weights))
        self.losses.append(dict(event.losses))
        assert not event.skipped


def run(models: Any, toys: ModuleType, combiner: dict[str, Any]) -> Log:
    stage = {
        "strategy": {"type": "lora", "r": 4},
        "combiner": combiner,
        "learning_rate": 1e-2,
        "max_steps": 12,
        "per_device_train_batch_size": 8,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
    }
    rows, log = {"train": toys.rows(16), "dev": toys.rows(12, seed=1)}, Log()
    recipe = {"backbone": str(models["bert"]), "tasks": TASKS, "precision": "fp32", "stages": [stage]}
    hft_core.run(recipe, data=dict.fromkeys(TASKS, rows), observers=[log])
    return log


@pytest.mark.parametrize(
    ("combiner", "sums_to"),
    [
        ({"type": "famo", "lr": 0.2}, 1.0),
        ({"type": "coba", "dev_every": 1, "warmup": 2}, 1.0),
        ({"type": "gradnorm", "lr": 0.1}, 2.0),
        ({"type": "gradnorm", "lr": 0.1, "at": "representation"}, 2.0),
        ({"type": "dwa", "temperature": 0.1}, 2.0),
        ({"type": "rlw"}, 1.0),
    ],
    ids=lambda value: "-".join(str(v) for v in value.values()) if isinstance(value, dict) else "",
)
def test_weights_follow_the_training(models: Any, toys: ModuleType, combiner: dict[str, Any], sums_to: float) -> None:
    log = run(models, toys, combiner)
    assert all(math.isfinite(loss) for losses in log.losses for loss in losses.values())
    both = [weights for weights in log.weights if len(weights) == 2]
    assert len(both) > 8
    assert sum(both[-1].values()) == pytest.approx(sums_to, rel=1e-4)
    shares = [weights["topic"] / sum(weights.values()) for weights in both]
    assert max(shares) - min(shares) > 0.01


@pytest.mark.parametrize("name", ["upgrad", "graddrop", "nash-mtl"])
@pytest.mark.parametrize("at", ["shared", "representation"])
def test_gradients_are_combined_at_both_points(models: Any, toys: ModuleType, name: str, at: str) -> None:
    log = run(models, toys, {"type": name, "at": at})
    assert len(log.weights) == 12
    assert all(math.isfinite(weight) and weight >= 0 for weights in log.weights for weight in weights.values())
