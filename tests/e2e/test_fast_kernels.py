"""Fast kernels of a stage: used where a trial batch is computed alike, and in training steps alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import hft_core
from hft_core import hookimpl
from hft_core.acceleration import fast_paths
from hft_core.forward_override import override_forward
from hft_core.model.execution_plan import ExecutionPlan
from hft_core.runtime import signals


def recipe(model: Any, head: str, strategy: Any, **backbone: Any) -> dict[str, Any]:
    stage = {"strategy": strategy, "max_steps": 12, "learning_rate": 3e-3, "per_device_train_batch_size": 8}
    return {
        "backbone": {"model": str(model), **backbone},
        "tasks": {"t": {"head": head}},
        "stages": [stage],
        "precision": "fp32",
    }


def data(toys: ModuleType) -> dict[str, Any]:
    return {"t": {"train": toys.rows(60), "dev": toys.rows(20, seed=1), "test": toys.rows(20, seed=2)}}


@pytest.mark.parametrize("strategy", ["full", "lora"])
@pytest.mark.parametrize("name", ["falcon", "falcon-alibi", "llama"])
def test_every_family_learns_as_with_eager_attention(name: str, strategy: str, models: Any, toys: ModuleType) -> None:
    results = [
        hft_core.run(recipe(models[name], "clm", strategy, dropout=0.0, **options), data=data(toys))
        for options in ({}, {"attn_implementation": "eager"})
    ]
    found, wanted = (result.final["test"]["t"]["loss"] for result in results)
    assert found == pytest.approx(wanted, rel=1e-3)
    assert results[0].final["dev"]["t"]["loss"] == pytest.approx(results[1].final["dev"]["t"]["loss"], rel=1e-3)


def test_a_fast_path_that_computes_something_else_is_left_out_and_named(models: Any, toys: ModuleType) -> None:
    (warning,) = hft_core.run(recipe(models["falcon"], "clm", "full"), data=data(toys)).warnings
    assert "the fast path for the backbone is left out for FalconModel: on a trial batch, it differs" in warning


class Watch:
    """Notes whether the trunk's first dropout is overridden in steps and in evaluations."""

    def __init__(self) -> None:
        self.seen: dict[str, set[bool]] = {"step": set(), "evaluation": set()}
        self.patched = False

    @hookimpl
    def hft_evaluation_started(self) -> None:
        self.seen["evaluation"].add(self.patched)

    @hookimpl
    def hft_step_finished(self) -> None:
        self.seen["step"].add(self.patched)


def test_dev_is_scored_without_them(models: Any, toys: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, patched = Watch(), fast_paths.fast_dropout

    class Noted(AbstractContextManager[None]):
        def __init__(self, model: Any) -> None:
            self.inner = patched(model)

        def __enter__(self) -> None:
            watch.patched = True
            self.inner.__enter__()

        def __exit__(self, *error: Any) -> None:
            watch.patched = False
            self.inner.__exit__(*error)

    monkeypatch.setattr(fast_paths, "fast_dropout", Noted)
    hft_core.run(recipe(models["bert"], "classification", "full"), data=data(toys), observers=[watch])
    assert watch.seen == {"step": {True}, "evaluation": {False}}


def test_the_check_draws_nothing_of_the_run(models: Any, toys: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from hft_core.acceleration import decide
    from hft_core.acceleration.kernel_check import Kernels

    checked = hft_core.run(recipe(models["bert"], "classification", "lora"), data=data(toys))
    monkeypatch.setattr(decide, "usable_kernels", lambda *_, **__: Kernels(fast_paths.KERNELS))
    unchecked = hft_core.run(recipe(models["bert"], "classification", "lora"), data=data(toys))
    assert checked.final == unchecked.final


def test_a_resumed_stage_computes_as_it_began_without_another_trial(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Callable[[int], object]
) -> None:
    """What a trial chose on one machine is used on the next, where another trial might choose otherwise."""
    from hft_core.acceleration import decide, shared_layers
    from hft_core.acceleration.kernel_check import Kernels

    used: list[ExecutionPlan] = []
    patched = fast_paths.patched

    def noted(model: Any, plan: ExecutionPlan) -> AbstractContextManager[None]:
        used.append(plan)
        return patched(model, plan)

    def unexpected(*_: Any, **__: Any) -> Any:
        raise AssertionError("a trial was made")

    monkeypatch.setattr(fast_paths, "patched", noted)
    monkeypatch.setattr(decide, "usable_kernels", lambda *_, **__: Kernels((fast_paths.STRATEGY,), ("one is out",)))
    strategy = {"type": "task-lora", "target_modules": r".*layer\.1\..*\.dense"}
    chosen = recipe(models["bert"], "classification", strategy)
    chosen["tasks"] = {key: {"head": "classification"} for key in "ab"}
    rows = dict.fromkeys("ab", data(toys)["t"])
    with signals.listening(), pytest.raises(signals.Interrupted):
        hft_core.run(chosen, output=tmp_path / "run", data=rows, observers=[stop_after(2)])
    monkeypatch.setattr(decide, "usable_kernels", unexpected)
    monkeypatch.setattr(shared_layers, "depth", unexpected)
    (stage,) = hft_core.run(chosen, output=tmp_path / "run", data=rows, resume=True).stages
    assert "one is out" in stage.warnings
    (choices,) = {(plan.fast_kernels, plan.shared_depth, plan.one_pass) for plan in used}
    assert choices == ((fast_paths.STRATEGY,), 1, False)


def test_a_kernel_with_other_gradients_is_left_out(models: Any, toys: ModuleType, monkeypatch: Any) -> None:
    """The same hidden states are not enough."""
    from hft_core.strategy import Strategy

    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return gradient / 2

    def halving(self: Strategy, backbone: Any) -> AbstractContextManager[None]:
        layer = backbone.layers[0]
        before = layer.forward
        return override_forward({layer: lambda x, *args, **named: before(Halved.apply(x), *args, **named)})

    monkeypatch.setattr(Strategy, "in_training", halving)
    result = hft_core.run(recipe(models["bert"], "classification", "full"), data=data(toys))
    assert any("the fast path for the strategy is left out" in warning for warning in result.warnings)
