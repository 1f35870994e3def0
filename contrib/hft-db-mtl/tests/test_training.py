"""The combiner in runs on a tiny model, with labels of any scale and tasks that are absent from some steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hft_core
from hft_core import hookimpl
from hft_core.testing import toys, trunks


def rows(count: int, seed: int, scale: float) -> list[dict[str, Any]]:
    """Sentences of two classes, each with a number of the class."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(count):
        label, size = list(toys.CLASSES)[i % 2], scale * (1 + i % 2 + 0.1 * random.normal())
        made.append({"text": toys.sentence(i % 2, random), "label": label, "size": size})
    return made


class Steps:
    """What each step tells of its tasks."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.weights: list[dict[str, float]] = []
        self.skipped: list[str] = []

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        self.losses.append(dict(event.losses))
        self.weights.append(dict(event.weights))
        self.skipped.append(event.skipped)


def run(*, scale: float = 1.0, combiner: dict[str, Any] | None = None, **stage: Any) -> Steps:
    """`kind`, a classification, and `size`, a regression in the targets' own unit, learned together."""
    size = {"type": "regression", "label": "size", "standardize": False}
    common = {"strategy": "full", "learning_rate": 5e-3, "per_device_train_batch_size": 8, "max_grad_norm": None}
    chosen = {"type": "db-mtl", **(combiner or {})}
    recipe = {
        "backbone": {"model": str(trunks.folder("BERT")), "dropout": 0.0},
        "tasks": {"kind": {"head": "classification"}, "size": {"head": size}},
        "stages": [{**common, "combiner": chosen, "eval_strategy": "no", "head_warmup_steps": 0, **stage}],
        "precision": "fp32",
    }
    parts = {"train": rows(48, 0, scale), "dev": rows(16, 1, scale), "test": rows(16, 2, scale)}
    steps = Steps()
    hft_core.run(recipe, data={"kind": parts, "size": parts}, observers=[steps])
    assert not any(steps.skipped)
    return steps


@pytest.mark.parametrize("at", ["shared", "representation"])
def test_what_a_task_learns_does_not_depend_on_the_scale_of_another(at: str) -> None:
    thousands, millions = (run(scale=scale, combiner={"at": at}, max_steps=6) for scale in (3e3, 3e6))
    assert millions.losses[0]["size"] == pytest.approx(1e6 * thousands.losses[0]["size"], rel=1e-2)
    assert millions.weights[0]["size"] == pytest.approx(1e-3 * thousands.weights[0]["size"], rel=1e-2)
    # The loss is quadratic: a gradient that is 1,000 times as long has a log gradient of a thousandth of the length.
    for one, other in zip(thousands.losses, millions.losses, strict=True):
        assert one["kind"] == pytest.approx(other["kind"], rel=1e-2)


def test_it_learns_both_tasks() -> None:
    steps = run(max_steps=60, per_device_train_batch_size=16)
    assert np.mean([losses["kind"] for losses in steps.losses[-5:]]) < steps.losses[0]["kind"] / 2
    assert np.mean([losses["size"] for losses in steps.losses[-5:]]) < steps.losses[0]["size"] / 4


@pytest.mark.parametrize("strategy", [{"type": "lora", "r": 4}, "gradual-unfreezing"])
def test_it_goes_with_strategies_that_train_a_part(strategy: Any) -> None:
    steps = run(strategy=strategy, max_steps=12)
    assert steps.losses[-1]["size"] < 0.7 * steps.losses[0]["size"]


def test_weights_that_were_best_before_the_averages_began_are_loaded() -> None:
    stage = {"eval_strategy": "steps", "eval_steps": 1, "head_warmup_steps": 2, "learning_rate": 10.0}
    steps = run(max_steps=6, **stage)
    assert len(steps.losses) == 6


def test_tasks_that_are_absent_from_steps_are_left_out() -> None:
    steps = run(per_device_train_batch_size=1, max_steps=12)
    assert {tuple(losses) for losses in steps.losses} == {("kind",), ("size",)}
    assert all(set(weights) == set(losses) for weights, losses in zip(steps.weights, steps.losses, strict=True))
